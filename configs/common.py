"""Every field of a training, with the defaults of [DELG] on a folder of classes.

Other files of this folder start from it and change what differs; the result is locked,
so that a misspelt field is an error that names it.

A workdir with checkpoints is resumed with the same config only. What may change:
steps (the schedule follows), log_every, checkpoint_every, keep_checkpoints,
keep_every_hours, images_every, wandb_project, devices, parallel, init_from,
init_partial, init_share, validation, data.directory, data.threads,
optimizer.learning_rate and clip_norm, and extraction but for the pixels.
"""

from ml_collections import ConfigDict

# What each field may be, checked before anything is done. A range: whole numbers. An
# interval: numbers, without an end that has a round bracket. A tuple: the choices. A
# list: so many values, of which the one before `...` may be there many times or never.
# A type: that type.
COUNT = range(2**31)
POSITIVE = range(1, 2**31)
SIDE = range(1, 2**16)  # pixels.
ANY, NONNEGATIVE, SHARE = "(-inf, inf)", "[0, inf)", "[0, 1]"
RANGES = {
    "seed": range(2**32),
    "steps": POSITIVE,
    "batch_size": range(1, 2**20),
    "ema_decay": "[0, 1)",
    "log_every": POSITIVE,
    "checkpoint_every": COUNT,
    "keep_checkpoints": POSITIVE,
    "keep_every_hours": "[0, 1e5]",
    "images_every": COUNT,
    "wandb_project": str,
    "devices": COUNT,
    "parallel": ("pmap", "jit"),
    "accumulate": range(1, 2**20),
    "precision": ("float32", "bfloat16"),
    "init_from": str,
    "init_partial": bool,
    "init_share": "[0, 1)",
    "train_only": ("", "descriptors", "attention", "backbone", "global", "detector"),
    "model.name": ("delf", "delg", "global", "how", "ssd", "faster_rcnn"),
    "model.backbone": ("resnet", "compact", "efficientnet_lite2", "mobilenet_v2"),
    "model.depth": (18, 22, 26, 50, 101),
    "model.width": range(1, 2**12),
    "model.layout": ("v1.5", "v1", "keras", "slim"),
    "model.normalization": ("batch", "frozen"),
    "model.block3_strides": bool,
    "model.block4_dilation": (1, 2),
    "model.attention_width": range(1, 2**16),
    "model.reduced_dimension": range(2**16),
    "model.global_dimension": range(2**16),
    "model.gem_power": "(0, 1000]",
    "model.learn_power": bool,
    "model.pooling": ("gem", "spoc", "mac"),
    "model.image_size": range(32, 2**13),
    "model.neck": COUNT,
    "model.proposals": range(1, 10**4),
    "model.crop": ("align", "corners"),
    "data.directory": str,
    "data.max_side": SIDE,
    "data.threads": range(1, 2**10),
    "data.sources.*.path": str,
    "data.sources.*.images": str,
    "data.sources.*.label_column": str,
    "data.sources.*.boxes": str,
    "data.sources.*.split": ("", "train", "validation"),
    "data.sources.*.holdout": [str, ...],
    "data.sources.*.unlabelled": [str, ...],
    "data.sources.*.weight": "(0, 1e9]",
    "data.sources.*.first": COUNT,
    "data.sources.*.landmarks": range(1, 10**6),
    "data.sources.*.views": range(1, 10**6),
    "data.exclude": str,
    "data.on_device": bool,
    "data.pairs": str,
    "data.pairs_weight": "(0, 1e9]",
    "views.kind": ("pair", "crop", "tuple", "boxes"),
    "views.size": range(32, 2**13),
    "views.resolutions": ["[16, 1e5]", "[16, 1e5]"],
    "views.zoom": "[0, 2]",
    "views.rotation": "[0, 100]",
    "views.shear": "[0, 1]",
    "views.perspective": "[0, 1]",
    "views.shift": "[0, 10]",
    "views.colour": "[0, 10]",
    "views.area": ["(0, 1]", "(0, 1]"],
    "views.aspect": ["[0.01, 100]", "[0.01, 100]"],
    "views.flip": bool,
    "tuples.queries": POSITIVE,
    "tuples.pool": POSITIVE,
    "tuples.negatives": range(1, 1000),
    "tuples.whiten": bool,
    "tuples.reduce_images": POSITIVE,
    "loss.arcface": NONNEGATIVE,
    "loss.attention": NONNEGATIVE,
    "loss.reconstruction": NONNEGATIVE,
    "loss.classification": NONNEGATIVE,
    "loss.contrastive": NONNEGATIVE,
    "loss.triplet": NONNEGATIVE,
    "loss.map_distillation": NONNEGATIVE,
    "loss.global_distillation": NONNEGATIVE,
    "loss.similarity_distillation": NONNEGATIVE,
    "loss.correspondence": NONNEGATIVE,
    "loss.matchability": NONNEGATIVE,
    "loss.detection": NONNEGATIVE,
    "loss.margin_kind": ("arcface", "cosface"),
    "loss.margin": "[0, 3.15)",
    "loss.rare_margin": "[0, 3.15)",
    "loss.scale": "(0, inf)",
    "loss.centers": range(1, 1000),
    "loss.smoothing": "[0, 1)",
    "loss.classifier": ("dense", "sharded"),
    "loss.classifier_dtype": ("float32", "bfloat16"),
    "loss.contrastive_margin": NONNEGATIVE,
    "loss.triplet_margin": NONNEGATIVE,
    "loss.temperature": "(0, inf)",
    "loss.positive_radius": NONNEGATIVE,
    "loss.ignore_radius": NONNEGATIVE,
    "loss.query_step": POSITIVE,
    "loss.descriptors_train_backbone": bool,
    "loss.anchors": ("focal", "mined", "balanced"),
    "teacher.model": str,
    "teacher.stages": [str, ...],
    "teacher.dimension": range(1, 2**16),
    "teacher.fit_on": POSITIVE,
    "teacher.forced_steps": COUNT,
    "optimizer.name": ("adamw", "muon", "sgd"),
    "optimizer.learning_rate": "(0, inf)",
    "optimizer.schedule": ("cosine", "linear", "constant"),
    "optimizer.warmup_steps": COUNT,
    "optimizer.final_factor": SHARE,
    "optimizer.weight_decay": NONNEGATIVE,
    "optimizer.momentum": "[0, 1)",
    "optimizer.clip_norm": NONNEGATIVE,
    "validation.every": COUNT,
    "validation.patience": COUNT,
    "validation.search": bool,
    "validation.dataset": str,
    "validation.photos": str,
    "validation.drawn.first": COUNT,
    "validation.drawn.landmarks": range(10**6),
    "validation.drawn.views": range(1, 10**6),
    "validation.examples": COUNT,
    "extraction.image_scales": ["(0, 8]", "(0, 8]", ...],
    "extraction.global_scales": [COUNT, ...],
    "extraction.max_image_size": (None, POSITIVE),
    "extraction.min_image_size": (None, range(2**16)),
    "extraction.max_features": COUNT,
    "extraction.attention_threshold": ANY,
    "extraction.gem_power": "[0, 1000]",
    "extraction.gem_region": (0, range(3, 64, 2)),
    "extraction.gem_floor": NONNEGATIVE,
    "extraction.scale_power": "[0, 1000]",
    "extraction.nms_iou": SHARE,
    "extraction.pixel_mean": [ANY, ANY, ANY],
    "extraction.pixel_std": ["(0, inf)", "(0, inf)", "(0, inf)"],
}


def get_config() -> ConfigDict:
    """A fresh, locked config."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 100_000  # optimiser steps.
    config.batch_size = 32  # examples a step, over all devices and hosts.
    config.ema_decay = 0.999  # of the averaged weights, which are exported.
    config.log_every = 50  # steps.
    config.checkpoint_every = 1000  # steps; 0: none.
    config.keep_checkpoints = 2  # the newest, beside the one that validates best.
    # Beside those the oldest, and for good one for each so many hours after it; 0:
    # none. The released code keeps 10, and one every 3 hours.
    config.keep_every_hours = 0.0
    # Steps between pictures in TensorBoard, and between what is measured on these
    # images: attention, zeros of each block, range of the pixels; 0: none.
    config.images_every = 1000
    # Of Weights & Biases, which gets the metrics, too (the extra [wandb]); "": none.
    config.wandb_project = ""
    config.devices = 0  # of each host; 0: all.
    config.parallel = "pmap"  # or "jit": same numbers, shared out by the compiler.
    # Parts that a device computes its share of a batch in, to save memory; the result
    # is that of the whole but for BatchNorm and losses that compare examples.
    config.accumulate = 1
    # Of the backbone's arithmetic; "bfloat16" leaves weights and statistics in float32.
    config.precision = "float32"
    # A workdir or a model folder, or "bundled", whose weights are the start where they
    # fit. Fields of config.model that neither a file nor the command line changes are
    # as there; so are those of config.extraction, of a model of the same kind.
    config.init_from = ""
    config.init_partial = False  # also where less than half of the model fits.
    # Of the weights of init_from in those that are measured and exported, which then
    # forget less of what the photos do not show [Wortsman2022].
    config.init_share = 0.0
    # The part that learns, all else stays bit for bit: "": all; "descriptors": all but
    # the local branch; "attention": that and its classifier; "backbone"; "global": what
    # follows it on the way to the global descriptor, with its classifier.
    config.train_only = ""

    config.model = ConfigDict(
        {
            # Or "delf", "global", "how", "ssd", "faster_rcnn": their fields are in
            # configs/delf_r50_gldv1_descriptors.py, gldv2_arcface_r101.py, how_r50.py,
            # detect_ssd.py and detect_frcnn.py.
            "name": "delg",
            # Or "compact": one size, so without depth, width and layout, as in
            # configs/delg_tiny.py.
            "backbone": "resnet",
            "depth": 50,
            "width": 64,  # channels of the stem.
            "layout": "v1.5",  # or "keras", "slim".
            "normalization": "batch",  # over all devices; or "frozen".
            # True: local features at stride 32, not 16, as the released code trains by
            # default. Of "keras", "v1" and "v1.5" block4 is the same either way: what
            # is trained so extracts at 16, too, with the field set back.
            "block3_strides": False,
            "attention_width": 512,
            "reduced_dimension": 128,  # of a local descriptor.
            "global_dimension": 2048,
            "gem_power": 3.0,  # of the pooling; where it is learned, the start.
            "learn_power": False,  # GeM's power is trained with the rest.
        }
    )

    config.data = ConfigDict()
    config.data.directory = "data"  # prepared datasets.
    config.data.max_side = 1024  # pixels of a stored image.
    config.data.threads = 4
    # Photos lie decoded in the accelerator's memory, where pairs of views are drawn:
    # for some thousands of small ones, faster than processors can draw.
    config.data.on_device = False
    # CSV of `fit pairs`: photos of one place, whose views are a pair besides those of
    # one photo, this often beside the weights of the sources. For data.on_device.
    config.data.pairs = ""
    config.data.pairs_weight = 0.2
    # By name: path (folder of class folders; CSV; train.csv or train_clean.csv of
    # GLDv2, or its folder; its test.csv or index.csv, without classes; train.csv of
    # GLDv1; retrieval-SfM-120k.pkl; TFRecords, as "gldv2/train-*-of-*"), images (folder
    # of a CSV's images), label_column, split ("train" or "validation", a fifth of each
    # class), holdout (classes left out), unlabelled (names that are no class), weight
    # (share of the examples). Or, to draw landmarks: first (seed), landmarks, views (of
    # each), weight. For loss.detection also boxes: CSV of detect, COCO's .json, folder
    # of .boxes or of VOC's .xml files.
    config.data.sources = ConfigDict()
    # A file of class names, one a line, to leave out of all sources: landmarks that the
    # test shows, too.
    config.data.exclude = ""

    # What is seen of an image; the fields are those of ViewSettings, data/augment.py.
    config.views = ConfigDict()
    # Two views of it; or "crop", one; or "tuple", whole images: see config.tuples; or
    # "boxes", one with its boxes, for loss.detection.
    config.views.kind = "pair"
    config.views.size = 321  # pixels.
    # Of a pair.
    config.views.resolutions = (220.0, 800.0)  # pixels, long side of the whole image.
    # Log of the ratio between the views, standard deviation; of boxes: of how much more
    # than a crop is seen.
    config.views.zoom = 0.25
    config.views.rotation = 0.15  # radians, standard deviation.
    config.views.shear = 0.08
    config.views.perspective = 0.12
    config.views.shift = 0.15  # of the view's side.
    config.views.colour = 1.0  # 0: none.
    # Of a crop and of boxes; with colour 0 and flip False as in [DELF] and [DELG].
    config.views.area = (0.08, 1.0)  # shares of the image's.
    config.views.aspect = (0.75, 1.3333333333333333)  # width / height.
    config.views.flip = False  # every second crop.

    # Of tuples (query, positive, negatives): what shows the same is a class.
    config.tuples = ConfigDict()
    config.tuples.queries = 2000  # of an epoch.
    config.tuples.pool = 20_000  # images that an epoch's negatives are mined from.
    config.tuples.negatives = 5  # of a query, of as many other classes.
    config.tuples.whiten = False  # learn a whitening for the model after the training.
    config.tuples.reduce_images = 5000  # that set the reduction of "how".

    # Weights; 0 turns a loss, and what only it needs, off.
    config.loss = ConfigDict()
    config.loss.arcface = 1.0
    config.loss.attention = 1.0
    config.loss.reconstruction = 10.0
    config.loss.classification = 0.0  # softmax of DELF's pooled block4.
    config.loss.contrastive = 0.0  # of tuples, as are triplets.
    config.loss.triplet = 0.0
    # To a teacher: of the maps of its stages, in units of their deviation; of
    # descriptors; and of the cosines between the descriptors of a batch.
    config.loss.map_distillation = 0.0
    config.loss.global_distillation = 0.0
    config.loss.similarity_distillation = 0.0
    config.loss.correspondence = 0.0
    config.loss.matchability = 0.0
    config.loss.detection = 0.0  # of a detector's anchors and their boxes.
    config.loss.margin_kind = "arcface"  # or "cosface": of the weight loss.arcface.
    config.loss.margin = 0.1  # ArcFace: radians; CosFace: of the cosine.
    # Of the rarest class; the others' lie between, by the number of their images. 0:
    # the same margin for all.
    config.loss.rare_margin = 0.0
    config.loss.scale = 45.25  # of cosines; sqrt(2048) in [DELG].
    config.loss.centers = 1  # directions of a class, of which the nearest counts.
    config.loss.smoothing = 0.0  # share of a label that is spread over all classes.
    # "sharded": each device holds its classes only.
    config.loss.classifier = "dense"
    config.loss.classifier_dtype = "float32"  # or "bfloat16": of its products.
    config.loss.contrastive_margin = 0.7  # distance of descriptors of length 1.
    config.loss.triplet_margin = 0.1  # of squared distances.
    config.loss.temperature = 0.07  # of the correspondence softmax.
    config.loss.positive_radius = 8.0  # pixels of a view.
    config.loss.ignore_radius = 24.0  # pixels of a view.
    config.loss.query_step = 1  # every how many cells of a first view one is matched.
    # False, as in [DELG]: local descriptors only train their own reduction.
    config.loss.descriptors_train_backbone = False
    # Or "mined": of those without a box the hardest; "balanced": some at random.
    config.loss.anchors = "focal"

    config.teacher = ConfigDict()
    config.teacher.model = ""  # folder of the model that teaches.
    # Its maps that the student's of the same names learn.
    config.teacher.stages = ("block4",)
    config.teacher.dimension = 256  # that its descriptors are projected to.
    config.teacher.fit_on = 2000  # images that the projection is fitted on.
    # In the first steps every stage reads the teacher's map instead of the one before
    # it: all learn at once; in as many again, ever fewer do. Needs all stages of a
    # model that has the teacher's.
    config.teacher.forced_steps = 0

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or "muon", "sgd".
    # At the peak, for a batch of 256; for others in proportion.
    config.optimizer.learning_rate = 8e-3
    config.optimizer.schedule = "cosine"  # or "linear", "constant", after the warm-up.
    config.optimizer.warmup_steps = 500
    config.optimizer.final_factor = 0.0  # of the learning rate, at the last step.
    config.optimizer.weight_decay = 1e-2  # of kernels only.
    config.optimizer.momentum = 0.9  # b1 of Adam, where a kernel is no matrix for muon.
    config.optimizer.clip_norm = 10.0  # of the gradient; 0: none.

    # What measures the averaged weights and chooses the checkpoint that is exported.
    config.validation = ConfigDict()
    config.validation.every = 0  # steps; 0: never.
    # So many validations without a better one end the training; 0: none do. Weights of
    # init_from are measured first by mAP, and are the model if nothing is better.
    config.validation.patience = 0
    # mAP of the "validation" part of the sources whose split is "train", each image
    # searched for among all others.
    config.validation.search = False
    # Or on a ground truth of the revisited form, or on a folder of folders.
    config.validation.dataset = ""
    config.validation.photos = ""  # of a ground truth; empty: beside it.
    # Or on so many landmarks that are drawn from the seed `first` on.
    config.validation.drawn = ConfigDict({"first": 900_000, "landmarks": 0, "views": 6})
    # Accuracy on the "validation" part of the sources whose split is "train".
    config.validation.examples = 1000  # of them at most; 0: all.

    # What the exported model extracts with by default.
    config.extraction = ConfigDict()
    config.extraction.image_scales = (0.25, 0.3535, 0.5, 0.7071, 1.0, 1.4142, 2.0)
    config.extraction.global_scales = (3, 4, 5)  # indices of image_scales.
    config.extraction.max_image_size = 1024  # pixels of the longer side; larger shrink.
    config.extraction.min_image_size = 0  # smaller photos are enlarged.
    config.extraction.max_features = 1000
    config.extraction.attention_threshold = 0.0
    # Pooling at extraction [SuperGlobal]: 4.6, 5, 0 and 0 are as released.
    config.extraction.gem_power = 0.0  # in place of the model's; 0: the model's.
    config.extraction.gem_region = 0  # cells each way that the map is mixed with.
    config.extraction.gem_floor = 0.0  # smaller values of the map are raised to it.
    config.extraction.scale_power = 1.0  # of the mean over scales; 1: sum; 0: maximum.
    # Overlap of what two features see, above which the weaker goes; 1: none goes.
    config.extraction.nms_iou = 1.0
    # Of R, G and B in 0 to 255; a training sees its images so, too.
    config.extraction.pixel_mean = (128.0, 128.0, 128.0)
    config.extraction.pixel_std = (128.0, 128.0, 128.0)
    return config.lock()
