"""Take the picture of the page to draw on: python -m tests.picture_of_page result_plot/draw.png"""

import sys

from tests.test_page import DIGITS, draw, open_page, settled, start_browser

chromium = start_browser()
page = open_page(chromium)
draw(page, DIGITS[3], (0.2, 0.12, 0.72))
page.execute_script("document.activeElement.blur()")
settled(page).save_screenshot(sys.argv[1])
chromium.quit()
