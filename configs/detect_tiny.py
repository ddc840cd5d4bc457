"""The bundled detector: boxes from maps of the bundled model, whose backbone stays.

    python main.py train --config=configs/detect_tiny.py --workdir=runs/detect_tiny
    python main.py detect photos --out=boxes --model=runs/detect_tiny/model

[Liu2016] on `compact` with a narrow pyramid of maps [Lin2017]; 3.4 million parameters,
of which 0.15 million learn. Of what it sees a third are drawn landmarks, the others
photos of ../shared with boxes that were drawn by hand (benchmarks/boxes), and photos of
fields, coasts and rooms that have none.

Cost: 24,000 images at 10 to 17 a second of one core, 31 minutes, and five that draw.
Measured on 400 views of 100 drawn landmarks: AP50 0.90 after 500 steps, 0.96 with AP
0.54 at the end; on 76 photos of landmarks that no training saw: 0.77 with 0.38.
"""

from ml_collections import ConfigDict

from configs import detect_ssd


def get_config() -> ConfigDict:
    config = detect_ssd.get_config()
    config.steps = 1500
    config.batch_size = 16
    config.ema_decay = 0.998
    config.checkpoint_every = 100
    config.images_every = 0
    config.devices = 1
    config.init_from = "bundled"
    config.init_partial = True  # Of a detector it has the backbone alone.
    config.train_only = "detector"
    drawn = config.data.sources.drawn
    drawn.update(landmarks=540, views=2)
    with config.unlocked():
        del config.model.width
        drawn.weight = 0.35
        config.model.neck = 64
        for name, folder, weight in (
            ("photos", "photos", 0.08),
            ("more", "photos_more", 0.57),
        ):
            config.data.sources[name] = ConfigDict(
                {
                    "path": f"../shared/{folder}/labels.csv",
                    "images": f"../shared/{folder}/images",
                    "boxes": f"benchmarks/boxes/{folder}.json",
                    "label_column": "landmark",
                    "weight": weight,
                }
            )
    config.model.backbone = "compact"
    config.model.image_size = config.views.size = 256
    config.optimizer.learning_rate = 3.2e-2  # 2e-3 at this batch.
    config.optimizer.warmup_steps = 100
    config.extraction.pixel_mean = (123.675, 116.28, 103.53)
    config.extraction.pixel_std = (58.395, 57.12, 57.375)
    config.data.threads = 1
    config.validation.every = 500
    config.validation.drawn.update(landmarks=100, views=4)
    return config
