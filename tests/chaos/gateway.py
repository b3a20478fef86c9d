"""The real gateway, which takes jobs of the chaos recipe: python -m tests.chaos.gateway."""

import sys

from tests.chaos.inside import disturb_the_clock


def main() -> int:
    """Be a gateway until SIGTERM, as `doctorgen gateway` is."""
    disturb_the_clock()
    from doctor_image_gen.settings import Settings
    from doctor_image_gen.stack import Connections, gateway_loops
    from shared.contracts.errors import DoctorGenError
    from shared.telemetry.logs import log_to_stderr
    from shared.worker.process import serve
    from tests.chaos.stages import RECIPES, STAGES

    log_to_stderr()
    settings = Settings.load()
    try:
        connections = Connections.open(settings)
    except DoctorGenError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        loops = gateway_loops(settings, connections, STAGES, RECIPES.__getitem__)
        return serve(loops, settings.shutdown_grace_s)
    finally:
        connections.close()


if __name__ == "__main__":
    sys.exit(main())
