"""A folder with all that the commands of docs/ name, small and drawn."""

import pathlib
import pickle
import shutil

import numpy as np
import scipy.io

from delf_jax import files
from delf_jax.extraction import model_folder
from delf_jax.formats.delf.features import DelfFeatures, write_delf_features
from delf_jax.images import encode_jpeg
from delf_jax.synthetic import landmarks
from tests.helpers import detectors, gldv2_miniature
from tests.helpers.documents import ROOT
from tests.helpers.drawn import draw_dataset
from tests.helpers.random_models import random_variables

SIZE = (96, 128)
FEATURES = {"max_image_size": 128, "attention_threshold": 0.0, "max_features": 100}
# Of the kinds of the released models, with their scales.
LOCAL = {"attention_width": 16, "reduced_dimension": 16, "depth": 26, "width": 4}
MODELS: dict[str, dict[str, object]] = {
    "models/r50delg_gldv2clean": {
        **LOCAL,
        **{"name": "delg", "layout": "keras", "depth": 18, "global_dimension": 16},
    },
    "models/delf_gld": {**LOCAL, "name": "delf", "layout": "slim"},
    "models/efficientnet_lite2": {
        **{"name": "global", "depth": 18, "width": 4, "layout": "v1.5"},
        "global_dimension": 16,
    },
}
TEXTS = {
    "list.txt": "a.jpg\nb.jpg\n",
    "list_images.txt": "image_1.jpg\nimage_2.jpg\n",
    "pairs.txt": "0/0.jpg 0/1.jpg\n",
    "pairs.csv": "query,positive\n"
    + "".join(f"{n}/{v}.jpg,{n}/{v + 1}.jpg\n" for n in range(4) for v in range(2)),
    "boxes.csv": "image,y_min,x_min,y_max,x_max,score\n0/0.jpg,10,10,80,90,0.9\n",
    "found.json": '{"0/0.jpg": ["0/1.jpg", "1/0.jpg"]}',
    "seen.txt": "place0_0\n",
    "delf_config_example.pbtxt": "use_local_features: true\nimage_scales: 1.0\n"
    "delf_local_config { use_pca: false score_threshold: 0 max_feature_num: 50 }\n",
    "r50delg_gldv2clean_config.pbtxt": "use_local_features: true\n"
    "use_global_features: true\nimage_scales: 0.7\nimage_scales: 1.0\n"
    "delf_local_config { use_pca: false score_threshold: 0 max_feature_num: 50 }\n"
    "delf_global_config { use_pca: false image_scales_ind: 1 }\n",
    "index_aggregation_config.pbtxt": "codebook_size: 8\nfeature_dimensionality: 16\n"
    'aggregation_type: ASMK_STAR\ncodebook_path: "runs/words"\n'
    "use_regional_aggregation: true\n",
}


def make(folder: pathlib.Path, model: pathlib.Path) -> None:
    """Fills a folder; `model` stands for those that trainings have left."""
    _draw_photos(folder)
    for name, text in TEXTS.items():
        (folder / name).write_text(text, "utf-8")
    for name, architecture in MODELS.items():
        scales = {"image_scales": (0.5, 1.0), "global_scales": (1,)}
        if architecture["name"] == "delf":
            scales["global_scales"] = ()
        limit = {"max_features": 0} if architecture["name"] == "global" else {}
        model_folder.save_model(
            folder / name,
            architecture,
            random_variables(architecture),
            FEATURES | scales | limit,
            {"note": "random"},
        )
    for name in ("model", "mine/model"):
        shutil.copytree(model, folder / "runs" / name)
    for name in ("runs/ssd/model", "runs/d2r_frcnn", "d2r_frcnn_20190411"):
        detectors.save_random(folder / name)
    for name in ("a", "b"):
        trained = ROOT / "tests" / "fixtures" / "v0.1" / "training"
        shutil.copytree(trained, folder / "runs" / name)
    _write_ground_truths(folder)
    _write_landmarks(folder)
    _write_features(folder)


def _draw_photos(folder: pathlib.Path) -> None:
    single = ("a", "b", "query", "image_1", "image_2", "reichstag_1", "reichstag_2")
    names = [f"{name}.jpg" for name in single]
    # As many as `calibrate` asks for.
    for top in ("photos", "labelled"):
        names += [f"{top}/{n}/{v}.jpg" for v in range(3) for n in range(4)]
    names += [f"others/{n}.jpg" for n in range(8)]
    names += [f"FOLDER/{n}/{v}.jpg" for v in range(3) for n in range(4)]
    names += ["photos/a/17.jpg", "queries/0.jpg", "queries/1.jpg", "more/0.jpg"]
    drawn = [landmarks.draw_landmark(landmarks.HELD_OUT + n) for n in range(4)]
    for number, name in enumerate(names):
        view = landmarks.draw_view(drawn[number % 4], number, SIZE)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode_jpeg(view.image, 92))


def _write_ground_truths(folder: pathlib.Path) -> None:
    """The names that the pages give to a dataset; data/ has both of the revisited."""
    drawn = draw_dataset(folder / "drawn_dataset") / "drawn"
    truth = files.read_json(drawn / "gnd_drawn.json")
    shutil.copytree(drawn / "jpg", folder / "jpg")
    (folder / "crops").mkdir()
    for query in truth["qimlist"]:
        shutil.copy(drawn / "jpg" / f"{query}.jpg", folder / "crops")
    for name in ("ground_truth.json", "truth.json"):
        shutil.copy(drawn / "gnd_drawn.json", folder / name)
    for name in (
        "gnd_roxford5k.pkl",
        "data/gnd_roxford5k.pkl",
        "data/gnd_rparis6k.pkl",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(pickle.dumps(truth))
    shutil.copytree(drawn / "jpg", folder / "data" / "jpg")
    photo = truth["imlist"][0]
    boxes = f"image,y_min,x_min,y_max,x_max,score\n{photo},10,10,90,90,0.9\n"
    (folder / "data" / "boxes.csv").write_text(boxes)
    lists = ("easy", "hard", "junk")
    rows = [
        (row["bbx"], *(np.array(row[n]) + 1 for n in lists)) for row in truth["gnd"]
    ]
    cells = {n: np.array(truth[n], object) for n in ("imlist", "qimlist")}
    cells["gnd"] = np.array(rows, [(name, object) for name in ("bbx", *lists)])
    scipy.io.savemat(folder / "gnd_roxford5k.mat", cells)


def _write_landmarks(folder: pathlib.Path) -> None:
    data = gldv2_miniature.write(folder / "data")
    for path in data.glob("*_solution_v2.1.csv"):
        shutil.copy(path, folder)
    train = folder / "gldv2" / "train"
    shutil.copytree(data / "train", train)
    test = shutil.copytree(data / "test", folder / "gldv2" / "test")
    shutil.copy(data / "test.csv", test)
    ids = sorted(path.stem for path in train.rglob("*.jpg"))
    rows = [f"{n},{' '.join(ids[2 * n : 2 * n + 2])}\n" for n in range(3)]
    (train / "train_clean.csv").write_text("landmark_id,images\n" + "".join(rows))


def _write_features(folder: pathlib.Path) -> None:
    """image_1.delf and image_2.delf, the second one shifted."""
    rng = np.random.default_rng(0)
    locations = rng.uniform(10, 80, (40, 2))
    descriptors = rng.normal(size=(40, 16)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    for number in (1, 2):
        ones = np.ones(40, np.float32)
        places = (locations + 3 * number).astype(np.float32)
        features = DelfFeatures(places, ones, descriptors, ones)
        write_delf_features(folder / f"image_{number}.delf", features)
