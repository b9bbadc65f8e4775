"""Take the picture of the page to draw on: python tests/picture_of_page.py result_plot/draw.png"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.test_page import DIGITS, draw, open_page, settled, start_browser

chromium = start_browser()
page = open_page(chromium)
draw(page, DIGITS[3], (0.2, 0.12, 0.72))
page.execute_script("document.activeElement.blur()")
settled(page).save_screenshot(sys.argv[1])
chromium.quit()
