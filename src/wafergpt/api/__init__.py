"""The public functions.

Each imports torch only when it is called. A run is given as a ``Run``, its name below ``root``, or
its path.
"""

from wafergpt.api.derived import average as average
from wafergpt.api.derived import export as export
from wafergpt.api.derived import import_model as import_model
from wafergpt.api.derived import prune as prune
from wafergpt.api.models import evaluate as evaluate
from wafergpt.api.models import generate as generate
from wafergpt.api.models import predict as predict
from wafergpt.api.models import report as report
from wafergpt.api.planning import plan as plan
from wafergpt.api.training import cross_validate as cross_validate
from wafergpt.api.training import finetune as finetune
from wafergpt.api.training import pretrain as pretrain
from wafergpt.api.training import tune as tune
from wafergpt.data.prepare import prepare as prepare
