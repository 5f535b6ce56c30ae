"""What nerfstudio finds: the method specifications of the suite's home package. Imports nothing heavy.

Every ns-* command imports this module, so encoders, segmenters and compiled kernels are imported where they are used.
"""

from __future__ import annotations

from typing import Any

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.plugins.types import MethodSpecification

from lang_splat_ns import compat
from lang_splat_ns.langsplat.model import LangSplatModelConfig
from lang_splat_ns.langsplat_lift.model import LangSplatLiftModelConfig
from lang_splat_ns.plugin.datamanager import LanguageDataManagerConfig, SplatDataManagerConfig
from lang_splat_ns.plugin.pipeline import LanguagePipelineConfig, SplatPipelineConfig
from lang_splat_ns.plugin.trainer import SafeTrainerConfig
from lang_splat_ns.splatting.model import GaussianSplattingModelConfig

compat.apply()

GEOMETRY_STEPS = 30_000
LANGUAGE_STEPS = 30_000


def _adam(lr: float, **schedule: Any) -> dict[str, Any]:
    decay = ExponentialDecaySchedulerConfig(max_steps=GEOMETRY_STEPS, **schedule) if schedule else None
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": decay}


def geometry_optimizers() -> dict[str, Any]:
    """Optimizers of 3DGS's parameters (Kerbl et al. 2023), with splatfacto's schedules."""
    return {
        "means": _adam(1.6e-4, lr_final=1.6e-6),
        "features_dc": _adam(0.0025),
        "features_rest": _adam(0.0025 / 20),
        "opacities": _adam(0.05),
        "scales": _adam(0.005),
        "quats": _adam(0.001),
        "camera_opt": _adam(1e-4, lr_final=5e-7, warmup_steps=1000, lr_pre_warmup=0),
        "bilateral_grid": _adam(2e-3, lr_final=1e-4, warmup_steps=1000, lr_pre_warmup=0),
    }


def trainer_options() -> dict[str, Any]:
    """How often to save, to evaluate and to show, for every method of the suite."""
    return {
        "steps_per_save": 2000,
        "steps_per_eval_batch": 0,
        "steps_per_eval_image": 1000,
        "steps_per_eval_all_images": 100_000,
        "mixed_precision": False,
        "vis": "viewer+tensorboard",
        # nerfstudio's own default opens the viewer to the whole network.
        "viewer": ViewerConfig(num_rays_per_chunk=1 << 15, websocket_host="127.0.0.1"),
    }


gaussian_splatting = MethodSpecification(
    config=SafeTrainerConfig(
        method_name="3dgs",
        max_num_iterations=GEOMETRY_STEPS,
        pipeline=SplatPipelineConfig(
            datamanager=SplatDataManagerConfig(dataparser=NerfstudioDataParserConfig(load_3D_points=True)),
            model=GaussianSplattingModelConfig(),
        ),
        optimizers=geometry_optimizers(),
        **trainer_options(),
    ),
    description="3D Gaussian Splatting on gsplat, or on a CPU without it.",
)

langsplat = MethodSpecification(
    config=SafeTrainerConfig(
        method_name="langsplat",
        max_num_iterations=GEOMETRY_STEPS + LANGUAGE_STEPS,
        pipeline=LanguagePipelineConfig(
            datamanager=LanguageDataManagerConfig(dataparser=NerfstudioDataParserConfig(load_3D_points=True)),
            model=LangSplatModelConfig(geometry_steps=GEOMETRY_STEPS),
        ),
        optimizers=geometry_optimizers() | {"language_features": _adam(0.0025)},
        **trainer_options(),
    ),
    description="LangSplat (Qin et al. 2024): Gaussians that answer text, geometry and language in one run.",
)

langsplat_lift = MethodSpecification(
    config=SafeTrainerConfig(
        method_name="langsplat-lift",
        max_num_iterations=GEOMETRY_STEPS,
        pipeline=LanguagePipelineConfig(
            datamanager=LanguageDataManagerConfig(dataparser=NerfstudioDataParserConfig(load_3D_points=True)),
            model=LangSplatLiftModelConfig(),
        ),
        optimizers=geometry_optimizers(),
        **trainer_options(),
    ),
    description="Language lifted onto 3DGS in seconds, without training it: answers text, gives objects out.",
)
