"""Photos with boxes drawn into them."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

# Longer side in pixels; larger photos are shrunk to it.
SIDE = 1024
# The best box, the next ones in turn: apart for the colour-blind, on sky and stone.
COLOURS = ("#e6194b", "#ffe119", "#4363d8", "#f032e6", "#3cb44b", "#f58231", "#42d4f4")


def draw_boxes(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "N 4"],
    scores: Float[np.ndarray, " N"],
) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with its boxes, each with its score; the best lies on top.

    Args:
      boxes: in pixels, best first.
    """
    scale = min(1.0, SIDE / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    draw, thickness = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 250))
    font = ImageFont.load_default(size=max(11, round(max(picture.size) / 45)))
    edge = np.array([height - 1, width - 1] * 2)
    for place in reversed(range(len(boxes))):
        colour = COLOURS[place % len(COLOURS)]
        last = boxes[place] * scale - [0, 0, 1, 1]  # Pillow draws the end, too.
        y_min, x_min, y_max, x_max = np.clip(last, 0, edge).tolist()
        y_max, x_max = max(y_min, y_max), max(x_min, x_max)
        draw.rectangle((x_min, y_min, x_max, y_max), outline=colour, width=thickness)
        text, corner = f"{scores[place]:.2f}", (x_min + thickness, y_min + thickness)
        draw.rectangle(draw.textbbox(corner, text, font), fill=colour)
        dark = colour not in COLOURS[1:2]
        draw.text(corner, text, "white" if dark else "black", font)
    return np.asarray(picture)
