"""The trainers of a configuration: one of the seed, one of all other runs."""

import dataclasses

from jax.sharding import Mesh

from jaxsim.config import Config
from jaxsim.distributed import alone
from jaxsim.errors import UserError
from jaxsim.model import LanguageModel
from jaxsim.train.optimizer import constant_rate, warmup_cosine
from jaxsim.train.trainer import Trainer


def trainer_of_seed(
    model: LanguageModel, config: Config, mesh: Mesh
) -> Trainer:
    """From scratch: warm-up, cosine, no tail average."""
    _check_batch("seed", config.seed.batch, config, mesh)
    return Trainer(
        model,
        dataclasses.replace(config.recipe, anchor=0.0, decay=0.0),
        warmup_cosine(config.seed),
        config.seed.batch,
        0.0,
        config,
        mesh,
    )


def trainer_of_recipe(
    model: LanguageModel, config: Config, mesh: Mesh
) -> Trainer:
    """Members, truths and repeats."""
    recipe = config.recipe
    _check_batch("recipe", recipe.batch, config, mesh)
    if config.train.group > 1 and mesh.shape["model"] > 1:
        raise UserError(
            f"config.train.group={config.train.group}: runs side by side are "
            "each whole on one device; leave config.train.model_axis at 1, or "
            "set group=1"
        )
    if config.train.group > 1 and not alone():
        raise UserError(
            f"config.train.group={config.train.group}: several processes train "
            "one run at a time; set group=1, or start one process for each "
            "machine without --distributed"
        )
    return side_by_side(model, config, mesh)


def side_by_side(model: LanguageModel, config: Config, mesh: Mesh) -> Trainer:
    """The same of runs that are each whole on a device: no batch is divided."""
    recipe = config.recipe
    return Trainer(
        model,
        recipe,
        constant_rate(recipe),
        recipe.batch,
        recipe.tail,
        config,
        mesh,
    )


def _check_batch(group: str, rows: int, config: Config, mesh: Mesh) -> None:
    pieces, devices = config.train.accumulate, mesh.shape["data"]
    if rows % (pieces * devices):
        raise UserError(
            f"config.{group}.batch={rows} does not divide over the "
            f"{devices} devices of mesh axis 'data'"
            + f" in config.train.accumulate={pieces} pieces" * (pieces > 1)
            + "; change it, or config.train.data_axis"
        )
