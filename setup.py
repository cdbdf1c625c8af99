"""Shipped recipes lie in `recipes/` of a clone, and inside `align` in a wheel. The rest stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["align*", "reward_models*"]), "align.recipes"],
    package_dir={"align.recipes": "recipes"},
    package_data={"align": ["py.typed"], "reward_models": ["py.typed"], "align.recipes": ["*.yaml"]},
)
