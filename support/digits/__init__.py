"""Any picture -> digits as MNIST has them, the answer in words, and the page to draw on."""
# ruff: noqa: F401 - these are the room's doors

from support.digits.ink import Glyph as Glyph
from support.digits.ink import PictureError, find_glyphs, flatten, normalize, open_picture, turn
from support.digits.page import write_page
from support.digits.reading import MIN_CONFIDENCE, NOT_SURE, Digit, Reading, as_dict, as_text, choose, draw, judge
