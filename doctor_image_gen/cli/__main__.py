"""`python -m doctor_image_gen.cli`, the same as `doctorgen`."""

import sys

from doctor_image_gen.cli import main

if __name__ == "__main__":
    sys.exit(main())
