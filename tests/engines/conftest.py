"""Makes the models' libraries importable on a machine without a GPU, and keeps them off the network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from shared.models.libraries import prepare_libraries

prepare_libraries()
