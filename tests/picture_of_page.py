"""Take the picture of the page to draw on: python tests/picture_of_page.py result_plot/draw.png"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.test_page import DIGITS, PAGE, draw, open_page, settled, start_browser

with tempfile.TemporaryDirectory() as profile:
    chromium = start_browser(Path(profile))
    open_page(chromium, PAGE, 1280, "en-US", "light")
    draw(chromium, DIGITS[3], (0.2, 0.12, 0.72))
    chromium.execute_script("document.activeElement.blur()")
    settled(chromium).save_screenshot(sys.argv[1])
    chromium.quit()
