"""The page to draw on, in a real browser: the committed file, opened as by a double click."""

import base64
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.interaction import POINTER_PEN, POINTER_TOUCH
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from torch import Tensor, nn

from dataset import network_input
from model import MODELS, LeNet5
from predict import recognize
from support.data import read_images
from support.digits import MIN_CONFIDENCE, Digit, judge, normalize, turn, write_page
from support.digits.ink import Glyph, glyph_of
from support.terminal import UserError
from tests.test_ink import blotted

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "result_plot" / "draw.html"
WEIGHTS = ROOT / "weights" / "lenet_bn_augment.pt"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --window-size=1280,900"
)
Points = list[tuple[float, float]]
Driver = webdriver.Chrome


# --- the browser ------------------------------------------------------------------------------------------------------


def start_browser(profile: Path) -> Driver:
    """A headless Chromium that keeps its state in the folder `profile`. Raises FileNotFoundError if there is none."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        raise FileNotFoundError("install chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chromium = webdriver.Chrome(options=options, service=Service(driver))
    chromium.set_script_timeout(60)
    return chromium


def open_page(chromium: Driver, path: Path, width: int, language: str, scheme: str) -> Driver:
    """Open a file at that width, with the browser's language and colour scheme as said; below 600 it is a phone."""
    phone = width < 600
    size = {"width": width, "height": 800, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chromium.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
    chromium.execute_cdp_cmd("Network.setUserAgentOverride", {"userAgent": "Mozilla/5.0", "acceptLanguage": language})
    feature = {"name": "prefers-color-scheme", "value": scheme}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    chromium.get(path.as_uri())
    return settled(chromium)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Driver]:
    """A browser for all tests; they are skipped where there is none, but not where it is said to be needed."""
    try:
        chromium = start_browser(tmp_path_factory.mktemp("profile"))
    except FileNotFoundError as error:
        if os.environ.get("CI_NEEDS_BROWSER"):
            raise
        pytest.skip(str(error))
    yield chromium
    chromium.quit()


@pytest.fixture
def opened(chromium) -> Iterator[Callable[..., Driver]]:
    """Open a page with the given width, language and colour scheme; afterwards its console must be empty."""

    def opened(path: Path = PAGE, width: int = 1280, language: str = "en-US", scheme: str = "light") -> Driver:
        return open_page(chromium, path, width, language, scheme)

    yield opened
    assert chromium.get_log("browser") == []


def settled(chromium: Driver) -> Driver:
    """After the page has shown what has changed."""
    chromium.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    return chromium


def shown(chromium: Driver, name: str) -> str:
    return settled(chromium).find_element(By.ID, name).text


def network_of(name: str = "lenet_bn") -> nn.Module:
    """A network in evaluation mode: the committed one, or another with random weights, always the same."""
    if name == "lenet_bn":
        network = MODELS[name]()
        network.load_state_dict(torch.load(WEIGHTS, weights_only=True)["network"])
        return network.eval()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return MODELS[name]().eval()


@pytest.fixture(scope="module")
def digits(mnist_dir) -> tuple[Tensor, np.ndarray]:
    """Test digits float32 (N, 1, 32, 32) as the networks take them, and labels, 1,000 of MNIST's."""
    images, labels = read_images(mnist_dir / "test.tar.gz")
    return network_input(torch.from_numpy(images[:1000]).unsqueeze(1).float()), labels[:1000]


def logits_of_page(chromium: Driver, images: Tensor) -> np.ndarray:
    """`window.logits` of each image: float64 (N, 10)."""
    script = """
        const bytes = Uint8Array.from(atob(arguments[0]), (character) => character.charCodeAt(0));
        const pixels = new Float32Array(bytes.buffer);
        return Array.from({ length: pixels.length / 1024 }, (_, i) => {
          return window.logits(pixels.subarray(1024 * i, 1024 * (i + 1)));
        });
    """
    data = base64.b64encode(images.contiguous().numpy().astype("<f4").tobytes()).decode()
    return np.array(chromium.execute_script(script, data))


# --- drawing ----------------------------------------------------------------------------------------------------------


def arc(x: float, y: float, across: float, down: float, start: float, end: float) -> Points:
    """Part of an ellipse around (x, y), angles in degrees from the top, clockwise."""
    angles = [math.radians(start + (end - start) * i / 9) for i in range(10)]
    return [(x + across * math.sin(angle), y - down * math.cos(angle)) for angle in angles]


def lines(*corners: tuple[float, float]) -> Points:
    """Straight lines from corner to corner, in steps."""
    points = [corners[0]]
    for (x, y), (to_x, to_y) in itertools.pairwise(corners):
        points += [(x + (to_x - x) * i / 4, y + (to_y - y) * i / 4) for i in range(1, 5)]
    return points


# Strokes in a box of 1 x 1, x to the right, y downwards.
DIGITS: dict[int, list[Points]] = {
    0: [arc(0.5, 0.5, 0.32, 0.5, 0, -360)],
    1: [lines((0.55, 0), (0.45, 1))],
    2: [arc(0.48, 0.28, 0.34, 0.28, -75, 115) + lines((0.7, 0.5), (0.12, 1), (0.9, 0.98))],
    3: [arc(0.45, 0.25, 0.33, 0.25, -70, 180) + arc(0.45, 0.74, 0.38, 0.26, 0, 250)],
    4: [lines((0.25, 0), (0.15, 0.55), (0.85, 0.52)), lines((0.7, 0.1), (0.66, 1))],
    5: [lines((0.85, 0.02), (0.28, 0.04), (0.22, 0.45)) + arc(0.45, 0.68, 0.37, 0.32, -30, 230)],
    6: [arc(0.75, 0.62, 0.58, 0.62, -5, -85) + arc(0.47, 0.72, 0.3, 0.28, -90, -440)],
    7: [lines((0.1, 0.05), (0.85, 0), (0.4, 1))],
    8: [[(0.5 - 0.3 * math.sin(2 * t), 0.5 - 0.5 * math.cos(t)) for t in np.linspace(0, 2 * math.pi, 19)]],
    9: [arc(0.5, 0.28, 0.3, 0.28, 70, -290) + lines((0.78, 0.2), (0.68, 1))],
}
# of a way to draw: left, top and side of the box as fractions of the sheet, and which of the three pens
WAYS = {
    "large": (0.05, 0.05, 0.9, 1),
    "small": (0.45, 0.4, 0.18, 0),
    "in a corner": (0.68, 0.68, 0.28, 0),
    "thick": (0.15, 0.12, 0.72, 2),
}


def choose_pen(chromium: Driver, number: int) -> None:
    chromium.find_elements(By.CSS_SELECTOR, "label:has([name=pen])")[number].click()


def draw(chromium: Driver, strokes: list[Points], box: tuple[float, float, float], kind: str = "mouse") -> None:
    """Draw with real events of a mouse, finger or pen."""
    left, top, side = box
    sheet = chromium.find_element(By.ID, "sheet")
    frame = sheet.rect
    actions = ActionBuilder(chromium, mouse=PointerInput(kind, kind), duration=0)
    for points in strokes:
        for index, (x, y) in enumerate(points):
            across = round((left + side * x - 0.5) * frame["width"])
            down = round((top + side * y - 0.5) * frame["height"])
            actions.pointer_action.move_to(sheet, across, down)
            if index == 0:
                actions.pointer_action.pointer_down()
        actions.pointer_action.pointer_up()
    actions.perform()


def press(chromium: Driver, *keys: str) -> None:
    ActionChains(chromium, duration=0).send_keys(*keys).perform()


# --- what is written --------------------------------------------------------------------------------------------------


def test_the_committed_page_is_what_the_template_and_the_committed_weights_give(tmp_path):
    write_page(tmp_path / "draw.html", "lenet_bn_augment", network_of())
    assert (tmp_path / "draw.html").read_bytes() == PAGE.read_bytes()


def test_the_page_is_one_small_file_that_names_no_other():
    text = PAGE.read_text(encoding="utf-8")
    assert PAGE.stat().st_size < 500_000
    assert not any(word in text for word in ("http:", "https:", "//cdn", "src=", "@import", "url("))
    assert "default-src 'none'" in text


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 4, 5, stride=4)
        self.attention = nn.Linear(196, 196)
        self.f7 = nn.Linear(196, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.f7(self.attention(self.c1(images).flatten(1)))


def test_of_another_network_the_error_names_its_layers(tmp_path):
    page = tmp_path / "draw.html"
    page.write_text("as it was")
    with pytest.raises(UserError, match="cannot compute my_net, whose layers are c1, attention, f7"):
        write_page(page, "my_net", Other())
    assert page.read_text() == "as it was"


class Tanh(LeNet5):
    def forward(self, images: Tensor) -> Tensor:
        x = torch.tanh(self.s2(self.c1(images)))
        x = torch.tanh(self.s4(self.c3(x)))
        x = torch.tanh(self.c5(x).flatten(1))
        return self.f7(torch.tanh(self.f6(x)))


class Wider(LeNet5):
    """For images of 28x28: it cannot take what the page has."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5, padding=2)


@pytest.mark.parametrize("network", [Tanh, Wider])
def test_a_network_with_the_same_layers_that_computes_something_else_is_refused(network, tmp_path):
    with pytest.raises(UserError, match="cannot compute mine"):
        write_page(tmp_path / "draw.html", "mine", network())
    assert not list(tmp_path.iterdir())


def test_a_network_of_letters_is_refused(tmp_path):
    with pytest.raises(UserError, match="10 logits"):
        write_page(tmp_path / "draw.html", "letters", MODELS["lenet"](classes=26))


# --- what it computes -------------------------------------------------------------------------------------------------


def test_the_logits_of_the_committed_page_are_pytorchs(opened, digits):
    images, labels = digits
    logits = logits_of_page(opened(), images)
    with torch.no_grad():
        expected = network_of()(images).numpy()
    assert np.abs(logits - expected).max() < 1e-4
    assert (logits.argmax(1) == labels).mean() > 0.99


@pytest.mark.parametrize("name", ["lenet", "mlp"])
def test_the_logits_of_pages_of_the_other_networks_are_pytorchs(name, opened, digits, tmp_path):
    network = network_of(name)
    write_page(tmp_path / "draw.html", name, network)
    images = digits[0][:100]
    logits = logits_of_page(opened(tmp_path / "draw.html"), images)
    with torch.no_grad():
        expected = network(images).numpy()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()  # random weights give small logits


def test_the_page_of_a_network_without_maps_draws_and_shows_no_maps(opened, tmp_path):
    write_page(tmp_path / "draw.html", "</script><b>mlp", network_of("mlp"))
    page = opened(tmp_path / "draw.html")
    draw(page, DIGITS[3], (0.2, 0.2, 0.6))
    assert shown(page, "digit").isdigit()
    assert "</script><b>mlp" in shown(page, "name")
    assert not page.find_element(By.ID, "maps").is_displayed()


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_digits_drawn_with_the_mouse_are_recognized(way, opened):
    *box, pen = WAYS[way]
    page = opened()
    choose_pen(page, pen)
    read = {}
    for digit, strokes in DIGITS.items():
        draw(page, strokes, tuple(box))
        read[digit] = shown(page, "digit")
        page.find_element(By.ID, "clear").click()
    assert read == {digit: str(digit) for digit in DIGITS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [POINTER_TOUCH, POINTER_PEN])
def test_fingers_and_pens_draw(kind, opened):
    page = opened()
    draw(page, DIGITS[5], (0.2, 0.2, 0.6), kind)
    assert shown(page, "digit") == "5"


def test_the_result_follows_while_the_pen_is_still_down(opened):
    page = opened()
    sheet = page.find_element(By.ID, "sheet")
    chain = ActionChains(page, duration=0).move_to_element_with_offset(sheet, 0, -150).click_and_hold()
    chain.move_to_element_with_offset(sheet, 0, 0).move_to_element_with_offset(sheet, -20, 150).perform()
    assert shown(page, "digit") == "1"
    ActionChains(page).release().perform()


def drawn_on(page: Driver) -> tuple[Glyph, np.ndarray]:
    """The glyph that the page sees, and the 28x28 that it shows of it."""
    ink, seen = settled(page).execute_script("""
        const copy = new OffscreenCanvas(28, 28).getContext("2d");
        copy.drawImage(document.getElementById("seen"), 0, 0);
        const red = Array.from(copy.getImageData(0, 0, 28, 28).data).filter((_, at) => at % 4 === 0);
        return [Array.from(inkMask().values), red];
    """)
    return glyph_of(np.reshape(ink, (512, 512)) > 0), np.reshape(seen, (28, 28))


def read_by_predict(glyph: Glyph) -> Digit:
    return judge(glyph, lambda one: recognize(one, network_of()))


@pytest.mark.parametrize("way", ["large", "thick"])
def test_what_is_drawn_is_read_as_predict_reads_it(way, opened):
    """The same 28x28, the mean over the same three rotations."""
    *box, pen = WAYS[way]
    page = opened()
    choose_pen(page, pen)
    draw(page, DIGITS[5], tuple(box))
    glyph, seen = drawn_on(page)
    assert np.abs(seen - normalize(glyph.mask).astype(int)).max() <= 2  # of 255: Pillow rounds twice
    for degrees in (-10, 10):
        turned = page.execute_script(f"return Array.from(normalize(turn(crop(inkMask()), {degrees})).values)")
        assert np.abs(np.reshape(turned, (28, 28)) - normalize(turn(glyph.mask, degrees)).astype(int)).mean() < 0.5
    shown = page.execute_script("return reading.probabilities")
    assert shown == pytest.approx(read_by_predict(glyph).probabilities, abs=2e-3)


def test_doubt_is_said_where_predict_says_it(opened):
    page = opened()
    draw(page, DIGITS[5], (0.2, 0.2, 0.6))
    assert shown(page, "warning") == ""
    page.find_element(By.ID, "clear").click()
    draw(page, [lines((0, 0.3), (1, 0.3))], (0.1, 0.2, 0.8))
    glyph, _ = drawn_on(page)
    assert any("broad" in warning for warning in read_by_predict(glyph).warnings)
    assert "broad" in shown(page, "warning")
    page.find_element(By.ID, "clear").click()
    draw(page, [lines((0, 0), (1, 1)), lines((1, 0), (0, 1))], (0.2, 0.2, 0.6))  # a cross
    glyph, _ = drawn_on(page)
    assert ("not sure" in shown(page, "warning")) == (read_by_predict(glyph).probability < MIN_CONFIDENCE)


@pytest.mark.parametrize("digit", [6, 8, 9])
def test_blots_and_narrow_loops_are_prepared_as_predict_does(digit, opened):
    mask = blotted(digit)
    seen = opened().execute_script(
        "const [width, height, ink] = arguments;"
        "return Array.from(normalize(picture(width, height, (x, y) => 255 * ink[y * width + x])).values);",
        *mask.T.shape,
        mask.ravel().astype(int).tolist(),
    )
    assert np.abs(np.reshape(seen, (28, 28)) - normalize(mask).astype(int)).max() <= 4  # Pillow rounds twice


def maps_of(page: Driver) -> list[list[float]]:
    """What is drawn in the canvases of C1 and C3: the red channel of each."""
    return settled(page).execute_script("""
        return Array.from(document.querySelectorAll("#c1 canvas, #c3 canvas"), (canvas) => {
          const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
          copy.drawImage(canvas, 0, 0);
          const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
          return Array.from(data).filter((_, at) => at % 4 === 0);
        });
    """)


def test_the_six_maps_of_c1_and_the_sixteen_of_c3_follow_the_drawing(opened):
    page = opened()
    blank = maps_of(page)
    assert [len(values) for values in blank] == 6 * [28 * 28] + 16 * [10 * 10]
    assert all(len(set(values)) == 1 for values in blank)
    draw(page, DIGITS[4], (0.2, 0.2, 0.6))
    four = maps_of(page)
    assert all(len(set(values)) > 10 for values in four)
    draw(page, DIGITS[1], (0.3, 0.2, 0.6))
    assert all(before != after for before, after in zip(four, maps_of(page), strict=True))


def test_undo_takes_one_stroke_back_and_brings_back_what_was_cleared(opened):
    page = opened()
    draw(page, DIGITS[1], (0.1, 0.2, 0.6))
    assert shown(page, "digit") == "1"
    draw(page, DIGITS[0], (0.4, 0.2, 0.6))
    page.find_element(By.ID, "undo").click()
    assert shown(page, "digit") == "1"
    page.find_element(By.ID, "clear").click()
    assert shown(page, "digit") == ""
    page.find_element(By.ID, "undo").click()
    assert shown(page, "digit") == "1"
    for _ in range(3):  # more often than there are strokes
        page.find_element(By.ID, "undo").click()
    assert shown(page, "digit") == ""


# --- for everyone -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_request_leaves_the_page(opened, chromium):
    chromium.get_log("performance")
    page = opened()
    draw(page, DIGITS[7], (0.2, 0.2, 0.6))
    assert shown(page, "digit") == "7"
    messages = [entry["message"] for entry in page.get_log("performance")]
    asked = [message for message in messages if '"Network.requestWillBeSent"' in message]
    assert len(asked) == 1
    assert PAGE.as_uri() in asked[0]
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.slow
def test_the_page_cannot_ask_for_anything_even_if_it_tried(opened):
    page = opened()
    refused = page.execute_async_script(
        "fetch('data:,x').then(() => arguments[0]('sent'), () => arguments[0]('refused'))"
    )
    assert refused == "refused"
    assert any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en-US", "ko-KR"])
def test_at_the_width_of_a_phone_all_fits_and_one_draws_with_a_finger(language, opened):
    page = opened(width=360, language=language)
    assert page.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    sheet = page.find_element(By.ID, "sheet")
    assert sheet.rect["width"] > 300
    assert sheet.rect["y"] + sheet.rect["height"] < 640
    assert sheet.value_of_css_property("touch-action") == "none"
    assert page.execute_script("return document.getElementById('sheet').width") == round(2 * sheet.rect["width"])
    draw(page, DIGITS[6], (0.2, 0.2, 0.6), POINTER_TOUCH)
    assert shown(page, "digit") == "6"
    assert page.execute_script("return [scrollY, document.documentElement.scrollWidth]") == [0, 360]
    for button in page.find_elements(By.CSS_SELECTOR, "button, fieldset label"):
        assert min(button.rect["width"], button.rect["height"]) >= 44


@pytest.mark.slow
def test_a_digit_is_drawn_undone_and_cleared_with_the_keyboard_alone(opened):
    page = opened()
    press(page, Keys.TAB)
    sheet = page.find_element(By.ID, "sheet")
    assert page.switch_to.active_element == sheet
    press(page, *10 * [Keys.ARROW_LEFT], *5 * [Keys.ARROW_UP], Keys.SPACE, *20 * [Keys.ARROW_RIGHT])
    # two keys held at once go aslant
    chain = ActionChains(page, duration=0).key_down(Keys.ARROW_LEFT)
    for _ in range(10):
        chain.key_down(Keys.ARROW_DOWN).key_up(Keys.ARROW_DOWN)
    chain.key_up(Keys.ARROW_LEFT).perform()
    press(page, *25 * [Keys.ARROW_DOWN], Keys.SPACE)
    assert shown(page, "digit") == "7"
    said = page.find_element(By.ID, "announcement")
    wait_until(page, lambda: said.get_attribute("textContent").startswith("Pen up. 7, "))
    press(page, *5 * [Keys.ARROW_LEFT])  # the pen is up
    assert page.execute_script("return strokes.length") == 1
    ActionChains(page).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    assert shown(page, "digit") == ""
    ActionChains(page).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    press(page, Keys.SPACE, *9 * [Keys.ARROW_DOWN], Keys.ESCAPE)
    assert shown(page, "digit") != ""
    press(page, Keys.DELETE)
    assert shown(page, "digit") == ""
    wait_until(page, lambda: said.get_attribute("textContent") == "Nothing drawn")
    press(page, Keys.TAB, Keys.TAB, Keys.TAB, Keys.ARROW_RIGHT)
    assert page.execute_script("return document.querySelector('[name=pen]:checked').value") == "0.1"


def wait_until(page: Driver, condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        page.execute_async_script("setTimeout(arguments[0], 50)")
    raise AssertionError("waited for 5 seconds")


@pytest.mark.slow
def test_every_control_and_picture_has_a_name_for_screen_readers(opened):
    page = opened()
    draw(page, DIGITS[8], (0.2, 0.2, 0.6))
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    wanted = {"application", "image", "button", "radio", "group", "list", "main", "heading"}
    names = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]}
    unnamed = {role for role, name in names if not name} & (wanted - {"main"})
    assert not unnamed
    assert {role for role, _ in names} >= wanted
    assert ("radio", "Thick") in names
    assert page.find_element(By.ID, "announcement").get_attribute("role") == "status"


@pytest.mark.slow
def test_the_language_is_the_browsers_and_both_say_the_same_things(opened):
    page = opened(language="ko-KR,ko,en")
    assert page.execute_script("return document.documentElement.lang") == "ko"
    assert "숫자를 써 보세요" in page.title
    assert page.find_element(By.ID, "clear").text == "지우기"
    texts = page.execute_script("return TEXTS")
    placeholders = {
        language: {
            key: sorted(part.split("}")[0] for part in str(value).split("{")[1:]) for key, value in words.items()
        }
        for language, words in texts.items()
    }
    assert placeholders["ko"] == placeholders["en"]
    for language in ("en-US", "de", "fr-CA"):
        page = opened(language=language)
        assert page.execute_script("return document.documentElement.lang") == "en"
        assert page.find_element(By.ID, "clear").text == "Clear"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme, opened):
    page = opened(scheme=scheme)
    draw(page, DIGITS[9], (0.2, 0.2, 0.6))

    def luminance(name: str) -> float:
        text = page.execute_script(
            "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])", name
        )
        channels = [int(text.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert (luminance("--page") > 0.5) == (scheme == "light")
    for text in ("--text", "--soft", "--accent", "--ink"):  # WCAG 2.2, 1.4.3
        for ground in ("--page", "--paper"):
            low, high = sorted([luminance(text), luminance(ground)])
            assert (high + 0.05) / (low + 0.05) >= 4.5
