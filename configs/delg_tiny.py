"""The bundled model: a small DELG [Cao2020] taught by an ImageNet network.

    python main.py convert efficientnet-lite2-*.pth --out=runs/lite2
    python main.py train --config=configs/delg_tiny.py --workdir=runs/delg_tiny

Needs the labelled photos, the unlabelled ones and the small views of ten buildings in
the folders named below, and the teacher, an EfficientNet-Lite2 as converted above; it
runs as the training does. Landmarks are drawn besides. Two views of an image under
random homographies are the data; the teacher's maps, stage by stage, its descriptor and
the correspondence of the views are the targets. A second, shorter training goes on with
larger views. Its command, cost and result: docs/training.md.
"""

from ml_collections import ConfigDict

from configs import common

# Landmarks that validate: no image of theirs is trained on.
HOLDOUT = (
    "berlin_cathedral",
    "dancing_house_prague",
    "episcopal_gaudi_astorga",
    "kyiv_dolltheater",
    "lund_door",
    "mount_rushmore",
    "notre_dame_paris",
    "rovenki_hall",
    "sacre_coeur",
    "sceaux_castle",
    "tyn_church",
    "wxbs_church",
)
# Groups of the second validation (benchmarks/photos.py): no image of theirs is trained
# on, and no number was fitted to them. Single buildings, half a hundred photos each.
VALIDATION_GROUPS = (
    "brihadeeswara_thanjavur",
    "charar_e_sharif",
    "colosseum",
    "great_pyramid_giza",
    "humayuns_tomb",
    "victoria_memorial_kolkata",
)
# Of compact.py's stages, those that a teacher of the same widths has, too.
STAGES = ("stage2", "stage3", "stage4", "stage5", "stage6", "stage7", "block4")


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 2_700
    config.batch_size = 24
    config.ema_decay = 0.998
    config.devices = 1
    config.checkpoint_every = 250
    config.model.attention_width = 64
    config.model.reduced_dimension = 64
    config.model.global_dimension = 256
    config.views.size = 128
    config.views.resolutions = (140.0, 300.0)
    config.views.rotation = 0.1
    config.views.colour = 0.5
    config.loss.arcface = 0.0
    config.loss.attention = 0.0
    config.loss.reconstruction = 0.0
    config.loss.map_distillation = 7.0
    config.loss.global_distillation = 3.0
    config.loss.similarity_distillation = 12.0
    config.loss.correspondence = 0.1
    config.loss.matchability = 0.1
    config.loss.query_step = 5
    config.loss.positive_radius = 5.0
    config.loss.ignore_radius = 16.0
    config.loss.descriptors_train_backbone = True
    config.teacher.model = "runs/lite2"
    config.teacher.stages = STAGES
    config.teacher.dimension = 256
    config.teacher.forced_steps = 250
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 6.4e-2  # 6e-3 at this batch.
    config.optimizer.warmup_steps = 50
    config.optimizer.clip_norm = 5.0
    config.optimizer.weight_decay = 0.02
    config.data.directory = "runs/data"
    config.data.threads = 2
    config.data.max_side = 320
    config.data.on_device = True
    # All photos are of one size, so that pixels of verification mean the same.
    config.extraction.max_image_size = config.extraction.min_image_size = 1024
    config.extraction.image_scales = (0.25, 0.3535, 0.5, 0.7071)
    config.extraction.global_scales = (0, 1, 2)
    # Of ImageNet, as the teacher's.
    config.extraction.pixel_mean = (123.675, 116.28, 103.53)
    config.extraction.pixel_std = (58.395, 57.12, 57.375)
    with config.unlocked():
        config.model.backbone = "compact"
        for field in ("depth", "width", "layout", "block3_strides"):
            del config.model[field]
        config.data.sources.photos = ConfigDict(
            {
                "path": "../shared/photos/labels.csv",
                "images": "../shared/photos/images",
                "label_column": "landmark",
                "holdout": HOLDOUT,
                "unlabelled": ("_distractors",),
                "weight": 0.1,
            }
        )
        config.data.sources.more = ConfigDict(
            {
                "path": "../shared/photos_more/labels.csv",
                "images": "../shared/photos_more/images",
                "label_column": "landmark",
                "holdout": VALIDATION_GROUPS,
                "weight": 0.75,
            }
        )
        config.data.sources.small_views = ConfigDict(
            {
                "path": "../shared/photos_columbia10/labels.csv",
                "images": "../shared/photos_columbia10",
                "label_column": "landmark",
                "weight": 0.05,
            }
        )
        config.data.sources.synthetic = ConfigDict(
            {"first": 1000, "landmarks": 300, "views": 4, "weight": 0.1}
        )
    return config
