"""All six stages, and every operation by name. Imports descriptions only, no engine."""

from services.generate.stage import STAGE as GENERATE
from services.identity.stage import STAGE as IDENTITY
from services.qa.stage import STAGE as QA
from services.refine.stage import STAGE as REFINE
from services.swap.stage import STAGE as SWAP
from services.upscale.stage import STAGE as UPSCALE

STAGES = {stage.name: stage for stage in (IDENTITY, GENERATE, SWAP, REFINE, UPSCALE, QA)}
OPERATIONS = {operation.name: operation for stage in STAGES.values() for operation in stage.operations}
