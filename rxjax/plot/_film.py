"""Frames of a figure, fast: what stands still is drawn once."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.animation import FFMpegWriter
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ._style import DENSITY_MAP

_COLOURS = 256


def check_film(path: Path, fps: float) -> None:
    """Refuse what cannot be written before anything is drawn."""
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"Argument `fps` must be positive and finite, but it is {fps}.")
    ending = path.suffix.lower()
    if ending not in (".gif", ".mp4"):
        raise ValueError(f"Argument `path` must end in .gif or .mp4, but it is {str(path)!r}.")
    if ending == ".mp4" and not FFMpegWriter.isAvailable():
        raise ValueError(
            f"Argument `path` must end in .gif where ffmpeg is not installed, but it is {str(path)!r}.  Install "
            "ffmpeg, or write a GIF."
        )


def write_film(
    figure: Figure, moving: Sequence[Artist], draw: Callable[[int], None], n: int, path: Path, fps: float, dpi: float
) -> None:
    """Write `n` frames; `draw(i)` changes the artists in `moving`, and those alone, to the frame `i`.

    `moving` is in the order of drawing, and holds whatever lies above a moving artist too.
    """
    canvas, own_dpi = figure.canvas, figure.dpi
    for artist in moving:
        artist.set_animated(True)
    try:
        if path.suffix.lower() == ".mp4":
            # H.264 wants even sides.
            even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
            writer = FFMpegWriter(fps=fps, extra_args=even)  # pyright: ignore[reportArgumentType]
            with writer.saving(figure, str(path), dpi):
                for i in range(n):
                    draw(i)
                    writer.grab_frame()
        else:
            figure.set_dpi(dpi)
            _write_gif(list(_images(figure, moving, draw, n)), path, fps)
    finally:
        for artist in moving:
            artist.set_animated(False)
        figure.set_dpi(own_dpi)
        figure.set_canvas(canvas)


def _images(figure: Figure, moving: Sequence[Artist], draw: Callable[[int], None], n: int) -> Iterator[Image.Image]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    renderer = canvas.get_renderer()
    for i in range(n):
        draw(i)
        canvas.restore_region(still)
        for artist in moving:
            artist.draw(renderer)
        yield Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")


def _write_gif(images: list[Image.Image], path: Path, fps: float) -> None:
    # One palette for all, from frames spread over the film: no flicker, and small files.
    sample = [images[i] for i in sorted({round(k * (len(images) - 1) / 5) for k in range(6)})]
    width, height = sample[0].size
    strip = Image.new("RGB", (width, height * len(sample)))
    for k, image in enumerate(sample):
        strip.paste(image, (0, k * height))
    # What is rare counts too: the ends of the density's map, and white.
    map_colours = (255 * colormaps[DENSITY_MAP](np.linspace(0, 1, _COLOURS // 2))[:, :3]).round().astype(np.uint8)
    found = strip.quantize(_COLOURS - len(map_colours) - 1, dither=Image.Dither.NONE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*map_colours.ravel().tolist(), 255, 255, 255, *found[: 3 * (_COLOURS - len(map_colours) - 1)]])
    frames = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    frames[0].save(
        path, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, optimize=False
    )
