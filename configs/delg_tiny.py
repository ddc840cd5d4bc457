"""The bundled model: a small DELG [Cao2020] taught by an ImageNet network.

    python main.py train --config=configs/delg_tiny.py --workdir=runs/delg_tiny

Needs the labelled photos, the small views of ten buildings and the teacher's arrays in
the folders named below; landmarks are drawn besides. Two views of an image under random
homographies are the data; the teacher's map and descriptor, the correspondence of the
views and the classes are the targets. Cost and result: docs/training.md.
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
# Groups of the second validation (benchmarks/photos.py): nothing was chosen on them,
# and no image of theirs is trained on. Single buildings, half a hundred photos each.
VALIDATION_GROUPS = (
    "brihadeeswara_thanjavur",
    "charar_e_sharif",
    "colosseum",
    "great_pyramid_giza",
    "humayuns_tomb",
    "victoria_memorial_kolkata",
)


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 4500
    config.batch_size = 6
    config.ema_decay = 0.998
    config.devices = 1
    config.checkpoint_every = 500
    config.model.depth = 22
    config.model.width = 32
    config.model.attention_width = 64
    config.model.reduced_dimension = 128
    config.model.global_dimension = 256
    config.views.size = 192
    config.loss.arcface = 0.1
    config.loss.attention = 0.1
    config.loss.reconstruction = 0.1
    config.loss.distillation = 1.0
    config.loss.global_distillation = 1.5
    config.loss.correspondence = 0.5
    config.loss.matchability = 0.2
    config.loss.margin = 0.1
    config.loss.scale = 16.0  # sqrt of the descriptor's dimension, as in [DELG].
    config.loss.descriptors_train_backbone = True
    config.teacher.weights = "../shared/weights/resnet101v2_imagenet_to_conv4_fp16.npz"
    config.teacher.long_sides = (256, 384, 576)
    config.teacher.dimension = 256
    config.optimizer.learning_rate = 6.4e-2  # 1.5e-3 at this batch.
    config.optimizer.warmup_steps = 300
    config.optimizer.clip_norm = 5.0
    config.optimizer.weight_decay = 0.02
    config.data.directory = "runs/data"
    config.data.threads = 2
    config.extraction.image_scales = (0.3535, 0.5, 0.7071, 1.0)
    config.extraction.global_scales = (1, 2, 3)
    with config.unlocked():
        config.data.sources.photos = ConfigDict(
            {
                "path": "../shared/photos/labels.csv",
                "images": "../shared/photos/images",
                "label_column": "landmark",
                "holdout": HOLDOUT,
                "unlabelled": ("_distractors",),
                "weight": 0.55,
            }
        )
        config.data.sources.small_views = ConfigDict(
            {
                "path": "../shared/photos_columbia10/labels.csv",
                "images": "../shared/photos_columbia10",
                "label_column": "landmark",
                "weight": 0.15,
            }
        )
        config.data.sources.synthetic = ConfigDict(
            {"first": 1000, "landmarks": 300, "views": 4, "weight": 0.3}
        )
    return config
