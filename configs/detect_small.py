"""SSD on a narrow MobileNetV2: a small detector that one processor core trains.

    python main.py train --config=configs/detect_small.py --workdir=runs/small
    python main.py detect photos --out=boxes --model=runs/small/model

[Liu2016] with the backbone of [Sandler2018] at a quarter of its width, on images of 160
pixels: 0.65 million parameters. It learns from drawn landmarks alone.

Cost: 20,800 images at 20 to 55 a second of one core, and five minutes that draw.
Measured on 400 views of 100 landmarks that are not trained on: AP50 0.73 after 400
steps, 0.91 with AP 0.42 after 724, where that run was stopped; its first 334 steps had
the learning rates of a run of 3000.
"""

from ml_collections import ConfigDict

from configs import detect_ssd


def get_config() -> ConfigDict:
    config = detect_ssd.get_config()
    config.steps = 1300
    config.batch_size = 16
    config.ema_decay = 0.998
    config.checkpoint_every = 200
    config.images_every = 0
    config.devices = 1
    config.model.width = 8
    config.model.image_size = config.views.size = 160
    config.optimizer.learning_rate = 3.2e-2  # 2e-3 at this batch.
    config.optimizer.warmup_steps = 100
    config.data.threads = 1
    config.data.sources.drawn.update(landmarks=540, views=2)
    config.validation.every = 400
    config.validation.drawn.update(landmarks=100, views=4)
    return config
