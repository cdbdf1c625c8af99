"""Recipes: a YAML file of stages, validated as a whole, with every problem found in one go.

recipe = load("recipes/quickstart.yaml", overrides=["stages.sft.train.max_steps=10"])
recipe.stages["sft"].model  # "base"
"""

from align.recipe.loading import Recipe, load, shipped
from align.recipe.references import Reference, needs, parse_reference, stage_inputs

__all__ = [
    "Recipe",
    "Reference",
    "load",
    "needs",
    "parse_reference",
    "shipped",
    "stage_inputs",
]
