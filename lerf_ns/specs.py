"""What nerfstudio finds: LERF's method specifications. Imports nothing heavy.

Numbers are those of Kerr et al. 2023 and of its code's three configurations; nerfacto's own are nerfstudio 1.1.5's.
"""

from __future__ import annotations

from typing import Any

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig, RAdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.plugins.types import MethodSpecification

from lang_splat_ns import compat
from lang_splat_ns.plugin.trainer import SafeTrainerConfig
from lang_splat_ns.specs import GEOMETRY_STEPS, geometry_optimizers, trainer_options
from lerf_ns.datamanager import LerfDataManagerConfig, LerfSplatDataManagerConfig
from lerf_ns.model import LerfModelConfig
from lerf_ns.pipeline import LerfPipelineConfig
from lerf_ns.splat_model import LerfSplatModelConfig

compat.apply()

STEPS = 30_000
LANGUAGE_STEPS = 30_000


def language_optimizer(decay_steps: int | None) -> dict[str, Any]:
    """RAdam from 1e-2 to 1e-3, as the language field has it; None leaves the decay to the model."""
    decay = None if decay_steps is None else ExponentialDecaySchedulerConfig(lr_final=1e-3, max_steps=decay_steps)
    return {"optimizer": RAdamOptimizerConfig(lr=1e-2, eps=1e-15, weight_decay=1e-9), "scheduler": decay}


def _lerf(
    name: str, description: str, decay_steps: int, encoder: str = "open_clip", **model: Any
) -> MethodSpecification:
    return MethodSpecification(
        config=SafeTrainerConfig(
            method_name=name,
            max_num_iterations=STEPS,
            pipeline=LerfPipelineConfig(
                datamanager=LerfDataManagerConfig(
                    dataparser=NerfstudioDataParserConfig(train_split_fraction=0.99), encoder=encoder
                ),
                model=LerfModelConfig(
                    eval_num_rays_per_chunk=1 << 15,
                    average_init_density=0.01,
                    camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"),
                    **model,
                ),
            ),
            optimizers={
                "proposal_networks": {"optimizer": AdamOptimizerConfig(lr=1e-2, eps=1e-15), "scheduler": None},
                "fields": {
                    "optimizer": RAdamOptimizerConfig(lr=1e-2, eps=1e-15),
                    "scheduler": ExponentialDecaySchedulerConfig(lr_final=1e-3, max_steps=STEPS),
                },
                "camera_opt": {
                    "optimizer": AdamOptimizerConfig(lr=1e-3, eps=1e-15),
                    "scheduler": ExponentialDecaySchedulerConfig(lr_final=1e-4, max_steps=5000),
                },
                "lerf": language_optimizer(decay_steps),
            },
            **trainer_options(),
        ),
        description=description,
    )


lerf = _lerf(
    "lerf",
    "LERF (Kerr et al. 2023): a radiance field that answers text at every scale.",
    decay_steps=4000,
)

lerf_lite = _lerf(
    "lerf-lite",
    "LERF with one hash grid and half the samples: less memory, a little less detail.",
    decay_steps=7000,
    num_lerf_samples=12,
    hashgrid_layers=(16,),
    hashgrid_resolutions=((16, 512),),
    hashgrid_sizes=(19,),
)

lerf_big = _lerf(
    "lerf-big",
    "LERF with more grid levels, more samples and CLIP ViT-L/14.",
    decay_steps=3000,
    encoder="open_clip:ViT-L-14/laion2b_s32b_b82k",
    num_lerf_samples=32,
    hashgrid_layers=(16, 16),
)

lerf_splat = MethodSpecification(
    config=SafeTrainerConfig(
        method_name="lerf-splat",
        max_num_iterations=GEOMETRY_STEPS + LANGUAGE_STEPS,
        pipeline=LerfPipelineConfig(
            datamanager=LerfSplatDataManagerConfig(dataparser=NerfstudioDataParserConfig(load_3D_points=True)),
            model=LerfSplatModelConfig(geometry_steps=GEOMETRY_STEPS),
        ),
        optimizers=geometry_optimizers() | {"lerf": language_optimizer(None)},
        **trainer_options(),
    ),
    description="LERF's language field read at the Gaussians of 3DGS: answers at splat speed.",
)
