"""The recipe's types, and how recipes are read."""

from wafergpt.config.files import shipped_recipes as shipped_recipes
from wafergpt.config.loading import known_keys as known_keys
from wafergpt.config.loading import load_recipe as load_recipe
from wafergpt.config.loading import recipe_with as recipe_with
from wafergpt.config.lora import Lora as Lora
from wafergpt.config.recipe import Checkpoint as Checkpoint
from wafergpt.config.recipe import Data as Data
from wafergpt.config.recipe import Evaluate as Evaluate
from wafergpt.config.recipe import Guard as Guard
from wafergpt.config.recipe import Model as Model
from wafergpt.config.recipe import Optimizer as Optimizer
from wafergpt.config.recipe import Recipe as Recipe
from wafergpt.config.recipe import Schedule as Schedule
from wafergpt.config.recipe import TaskSettings as TaskSettings
from wafergpt.config.recipe import recipe_from as recipe_from
from wafergpt.config.sparsity import Sparsity as Sparsity
from wafergpt.config.system import Cerebras as Cerebras
from wafergpt.config.system import Section as Section
from wafergpt.config.system import System as System
