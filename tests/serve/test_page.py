"""The page in a real browser: headless Chromium, driven through ChromeDriver."""

import base64
import os
import shutil

import cv2
import numpy as np
import pytest
from servers import picture, png, served

from ppsolo.serve.access import AccessRules

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="chromium and chromedriver are not on PATH (Debian: apt-get install chromium chromium-driver)",
)
SECONDS = 60  # for the browser to do, on a busy machine, what takes it a fraction of one


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless",
        "no-sandbox",  # which it needs as root
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1200,900",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(SECONDS)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, predictor):
    """The page, freshly loaded from a server of its own."""
    with served(predictor, max_bytes=1_000_000) as server:
        browser.get(server.url + "/")
        until(browser, lambda: "3 classes" in text(browser, "model"))
        yield browser
    assert [entry for entry in browser.get_log("browser") if entry["source"] != "network"] == []


def until(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, SECONDS, poll_frequency=0.02).until(lambda driver: condition())


def part(browser, name):
    return browser.find_element("id", name)


def text(browser, name) -> str:
    return part(browser, name).text


def scores(browser) -> list[str]:
    return [entry.text for entry in browser.find_elements("css selector", "#instances .score")]


def choose(browser, path) -> None:
    part(browser, "file").send_keys(str(path))
    until(browser, lambda: part(browser, "result").is_displayed() or part(browser, "error").is_displayed())


def canvas(browser) -> np.ndarray:
    """What the canvas shows: uint8 [height, width, 3], RGB."""
    address = browser.execute_script("return document.getElementById('picture').toDataURL('image/png')")
    data = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def squares() -> np.ndarray:
    """A grey picture of 900 x 600 with a red square at the left and a green one at the right."""
    image = np.full((600, 900, 3), 60, np.uint8)
    image[200:400, 100:300] = 255, 180, 180
    image[200:400, 600:800] = 180, 255, 180
    return image


def test_a_chosen_photo_is_shown_with_its_masks(page, tmp_path):
    (tmp_path / "squares.png").write_bytes(png(squares()))
    choose(page, tmp_path / "squares.png")
    assert not part(page, "error").is_displayed()
    assert "squares.png: 900 \u00d7 600 pixels" in text(page, "status")
    assert text(page, "count") == "2 instances of 3"  # blue scores less than the slider says
    assert scores(page) == ["0.90", "0.50"]
    changed = np.abs(canvas(page).astype(int) - squares()).sum(axis=2) > 30
    assert changed.shape == (600, 900)
    assert changed[240:398, 102:298].all() and changed[240:398, 602:798].all()  # the masks
    assert not changed[450:, :].any() and not changed[200:400, 350:590].any()  # neither mask nor label
    label = part(page, "picture").get_attribute("aria-label")
    assert label == "squares.png: 2 instances, red 0.90, green 0.50"


def test_the_page_names_its_classes_and_offers_a_sample(page, predictor):
    assert "It finds red, green, blue" in page.find_element("css selector", "#classes summary").text
    assert "not trained on drawn shapes" in text(page, "advice")
    part(page, "sample").click()
    until(page, lambda: part(page, "result").is_displayed())
    assert "sample.png: 450 \u00d7 360 pixels" in text(page, "status")


def test_the_page_asks_for_the_token(browser, predictor, tmp_path):
    with served(predictor, access=AccessRules(token="0123456789abcdef")) as server:
        browser.get(server.url + "/")
        until(browser, lambda: part(browser, "access").is_displayed())
        (tmp_path / "squares.png").write_bytes(png(squares()))
        choose(browser, tmp_path / "squares.png")
        assert "token" in text(browser, "error")
        part(browser, "token").send_keys("0123456789abcdef\n")
        until(browser, lambda: "3 classes" in text(browser, "model"))
        assert not part(browser, "access").is_displayed() and not part(browser, "error").is_displayed()
        choose(browser, tmp_path / "squares.png")
        assert text(browser, "count") == "2 instances of 3"


def test_the_slider_filters_in_the_browser(page, predictor, tmp_path):
    from selenium.webdriver.common.keys import Keys

    (tmp_path / "squares.png").write_bytes(png(squares()))
    choose(page, tmp_path / "squares.png")
    requests = len(predictor.batches)
    slider = part(page, "threshold")
    slider.send_keys(Keys.HOME)  # by keyboard, as one who sees nothing would
    assert scores(page) == ["0.90", "0.50", "0.10"] and text(page, "least") == "0.00"
    assert text(page, "count") == "3 instances"
    page.execute_script("arguments[0].value = 0.7; arguments[0].dispatchEvent(new Event('input'))", slider)
    assert scores(page) == ["0.90"] and text(page, "count") == "1 instance of 3"
    changed = np.abs(canvas(page).astype(int) - squares()).sum(axis=2) > 30
    assert changed[240:398, 102:298].all() and not changed[:, 590:].any()
    slider.send_keys(Keys.END)
    assert scores(page) == [] and text(page, "count") == "0 instances of 3"
    np.testing.assert_array_equal(canvas(page), squares())
    assert len(predictor.batches) == requests  # the service was not asked again


def test_one_instance_is_singled_out(page, tmp_path):
    (tmp_path / "squares.png").write_bytes(png(squares()))
    choose(page, tmp_path / "squares.png")
    button = page.find_elements("css selector", "#instances button")[1]
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    changed = np.abs(canvas(page).astype(int) - squares()).sum(axis=2) > 30
    assert changed[240:398, 602:798].all() and not changed[:, :590].any()
    button.click()
    assert (np.abs(canvas(page).astype(int) - squares()).sum(axis=2) > 30)[240:398, 102:298].all()


def test_masks_are_decoded_exactly(page, predictor):
    for seed, (height, width) in enumerate([(40, 60), (61, 37), (1, 9), (9, 1), (300, 200)]):
        for rle in predictor.instances(picture(seed, height, width)).rle():
            script = "return spansOf(arguments[0], arguments[1], arguments[2])"
            spans = np.reshape(page.execute_script(script, rle, width, height), (-1, 4))
            mask = np.zeros((height, width), bool)
            for left, right, top, bottom in spans:
                mask[top:bottom, left:right] = True
            channel = [entry == rle for entry in predictor.instances(picture(seed, height, width)).rle()].index(True)
            np.testing.assert_array_equal(mask, picture(seed, height, width)[..., channel] > 200)


def test_a_dropped_photo_is_answered(page):
    encoded = base64.b64encode(png(squares())).decode()
    page.execute_script(
        """
        const bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
        """,
        encoded,
    )
    until(page, lambda: part(page, "result").is_displayed())
    assert "dropped.png" in text(page, "status") and scores(page) == ["0.90", "0.50"]


def test_what_is_no_photo_shows_the_service_s_message_and_the_next_photo_is_answered(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "huge.png").write_bytes(bytes(1_000_001))
    (tmp_path / "squares.png").write_bytes(png(squares()))
    choose(page, tmp_path / "notes.txt")
    error = part(page, "error")
    assert error.is_displayed() and error.get_attribute("role") == "alert"
    assert error.text.startswith("notes.txt: not an image that can be read")
    assert not part(page, "result").is_displayed()
    choose(page, tmp_path / "huge.png")
    until(page, lambda: "1000001 bytes are too many" in error.text)
    choose(page, tmp_path / "squares.png")
    until(page, lambda: part(page, "result").is_displayed())
    assert not error.is_displayed()


def test_a_service_that_is_gone_is_said_so(browser, predictor, tmp_path):
    with served(predictor) as server:
        browser.get(server.url + "/")
        until(browser, lambda: "3 classes" in text(browser, "model"))
    (tmp_path / "squares.png").write_bytes(png(squares()))
    choose(browser, tmp_path / "squares.png")
    assert "cannot be reached" in text(browser, "error")
    browser.get_log("browser")


def test_nothing_comes_from_elsewhere_and_a_phone_needs_no_sideways_scrolling(page, tmp_path):
    (tmp_path / "squares.png").write_bytes(png(squares()))
    choose(page, tmp_path / "squares.png")
    names = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert names and all(name.startswith(page.current_url) for name in names)
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        width = page.execute_script("return document.documentElement.scrollWidth")
        assert width <= 360 and part(page, "picture").size["width"] > 300
        shot = os.environ.get("PPSOLO_SCREENSHOTS")
        if shot:
            page.save_screenshot(os.path.join(shot, "phone.png"))
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
