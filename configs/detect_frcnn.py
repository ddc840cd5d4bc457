"""Faster R-CNN on ResNet-50 finds landmarks, from drawn ones and from your own boxes.

    python main.py train --config=configs/detect_frcnn.py --workdir=runs/frcnn
    python main.py detect photos --out=boxes --model=runs/frcnn/model

[Ren2015] 1506.01497 with the crops of [He2017] 1703.06870, as [D2R]'s larger detector:
proposals and their boxes from a map of stride 16. A backbone of ImageNet makes it
possible in few steps: --config.init_from=MODEL --config.init_partial=True, with the
pixels of that model. With your own boxes: the sources of configs/detect_own_boxes.py.

One GPU: as it is. v5e-16 or 8xH100: --config.batch_size=128 for a sixteenth of the
steps. Cost, an estimate: 600 GFLOP an image, 320,000 of which take one GPU of 400
TFLOP/s two hours. Expected: AP50 of at least 0.9 on views of landmarks that are not
trained on; not measured yet. A narrow one finds what it is shown
(tests/test_learning.py).
"""

from ml_collections import ConfigDict

from configs import detect_ssd


def get_config() -> ConfigDict:
    config = detect_ssd.get_config()
    config.steps = 40_000
    config.batch_size = 8
    config.views.size = 640
    config.loss.anchors = "balanced"
    config.optimizer.learning_rate = 1.6e-2  # 5e-4 at this batch.
    config.data.max_side = 1024
    with config.unlocked():
        config.model = ConfigDict(
            {
                "name": "faster_rcnn",
                "backbone": "resnet",  # No other has stride 16 and a fourth block.
                "depth": 50,
                "width": 64,  # channels of the stem.
                "layout": "v1.5",
                "normalization": "batch",  # Or "frozen", after --config.init_from.
                "image_size": 640,  # pixels; views.size must be the same.
                "proposals": 100,  # boxes of the first stage that the second sees.
            }
        )
    return config
