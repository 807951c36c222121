"""The page in a real browser, with the model in the package: from a photo to a file on disk."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageCms
from scipy import ndimage
from skimage import data

FAR = 16
"""Pixels from an object beyond which a change of it must not be seen."""
SAME = 2
"""Largest difference there, of 255."""


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A JPEG of 56x40 with an EXIF block that says it lies on its side, and a colour profile of its own."""
    path = tmp_path_factory.mktemp("photo") / "Zoë & <cat>.jpg"
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "A camera", 6  # maker; to be turned by a quarter
    exif.get_ifd(0x8769).update({0xA002: 56, 0xA003: 40})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(data.chelsea()[60:220, 100:324]).resize((56, 40)).save(path, exif=exif, icc_profile=profile,
                                                                           quality=90)
    return path


@pytest.fixture(scope="module")
def address(serve_page):
    from instancersr.loading import load_upscaler

    with serve_page(load_upscaler()) as address:
        yield address


@pytest.fixture
def page(browser, address):
    """A tab with the page, which may ask its own server only and must raise no error."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page.set_default_timeout(60_000)
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.locator("#start").wait_for()
    yield page
    page.close()
    assert not wrong
    foreign = {url for url in asked if not url.startswith((address, "data:", f"blob:{address}"))}
    assert asked and not foreign


def enlarge(page, *photos):
    page.locator("#photos input[type=file]").set_input_files(photos)
    page.get_by_text(photos[0].stem).first.wait_for()
    page.get_by_role("button", name="Enlarge").click()


def download(page, kind="PNG") -> Image.Image:
    page.get_by_label(kind, exact=True).check()
    with page.expect_download() as started:
        page.get_by_role("button", name="Download").click()
    picture = Image.open(io.BytesIO(started.value.path().read_bytes()))
    assert started.value.suggested_filename.endswith({"PNG": ".png", "JPEG": ".jpg", "WebP": ".webp"}[kind])
    return picture


def test_from_a_photo_to_a_file(page, photo):
    page.evaluate(WATCH)
    enlarge(page, photo)
    viewer = page.locator("#viewer .viewer")
    viewer.wait_for()
    page.get_by_text("160 × 224 pixels").wait_for()
    assert any("Working" in status for status in page.evaluate("statuses"))
    for name in ("before", "after"):
        picture = viewer.locator(f"img.{name}")
        assert picture.evaluate("img => img.decode().then(() => [img.naturalWidth, img.naturalHeight])") == [160, 224]
        assert picture.get_attribute("alt")

    slider = page.get_by_role("slider", name="How much of the picture before is shown, in percent")
    slider.focus()
    page.keyboard.press("End")
    shown = "img => getComputedStyle(img).clipPath"
    assert viewer.locator("img.before").evaluate(shown) == "inset(0px 0% 0px 0px)"
    page.keyboard.press("Home")
    assert viewer.locator("img.before").evaluate(shown) == "inset(0px 100% 0px 0px)"

    first = download(page)
    assert first.size == (160, 224) and first.format == "PNG"

    viewer.locator("canvas").scroll_into_view_if_needed()
    box = viewer.locator("canvas").bounding_box()
    spot = (0.3, 0.4)
    page.mouse.move(box["x"] + spot[0] * box["width"], box["y"] + spot[1] * box["height"])
    page.locator("#viewer figcaption", has_text="click to choose it").wait_for()
    assert viewer.locator("canvas").evaluate(LIT) > 0
    page.mouse.click(box["x"] + spot[0] * box["width"], box["y"] + spot[1] * box["height"])
    page.wait_for_function("document.querySelector('#object input').value !== ''")
    mask = viewer.locator("canvas").evaluate(CHOSEN)

    before = viewer.locator("img.after").get_attribute("src")
    page.get_by_role("button", name="Another version").click()
    page.wait_for_function("old => document.querySelector('#viewer img.after').getAttribute('src') !== old", arg=before)
    second = download(page)
    difference = np.abs(np.asarray(first, int) - np.asarray(second, int)).max(2)
    chosen = np.asarray(mask, bool).reshape(224, 160)
    away = ndimage.distance_transform_edt(~chosen) > FAR
    assert difference[chosen].max() > 0
    assert not away.any() or difference[away].max() <= SAME

    for kind in ("PNG", "JPEG", "WebP"):
        file = download(page, kind)
        assert file.format == kind.upper() and file.size == (160, 224)
        exif = file.getexif()
        assert exif[0x010F] == "A camera" and exif.get(0x0112, 1) == 1
        assert (exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003]) == (160, 224)
        assert file.info["icc_profile"] == Image.open(photo).info["icc_profile"]

    # the list of objects does for the keyboard what a click in the picture does
    list_of_objects = page.locator("#object input")
    list_of_objects.fill("")
    list_of_objects.press("ArrowDown")
    list_of_objects.press("Enter")
    page.wait_for_function("document.querySelector('#object input').value !== ''")
    page.locator("#viewer figcaption", has_text=list_of_objects.input_value()).wait_for()


def test_versions_are_compared_and_gone_back_to(page, photo):
    enlarge(page, photo)
    viewer = page.locator("#viewer .viewer")
    viewer.wait_for()
    first = download(page)
    sides = {name: viewer.locator(f"img.{name}") for name in ("before", "after")}
    tags = {name: viewer.locator(f".tag-{name}") for name in ("before", "after")}
    assert [tags[name].inner_text() for name in tags] == ["Before", "After"]
    choose(page, "#object", 0)
    old = sides["after"].get_attribute("src")
    page.get_by_role("button", name="Another version").click()
    page.get_by_text("Version 2", exact=True).wait_for()
    assert sides["before"].get_attribute("src") == old != sides["after"].get_attribute("src")
    assert tags["before"].inner_text() == "Version 1"
    second = download(page)
    assert (np.asarray(first) != np.asarray(second)).any()

    # F is held: the picture on the left alone
    shown = "img => getComputedStyle(img).clipPath"
    page.locator("#heading").click()
    halved = sides["before"].evaluate(shown)
    page.keyboard.down("f")
    assert sides["before"].evaluate(shown) == "inset(0px 0% 0px 0px)" != halved
    page.keyboard.up("f")
    assert sides["before"].evaluate(shown) == halved

    choose(page, "#version", 0)
    page.wait_for_function("old => document.querySelector('#viewer img.after').getAttribute('src') === old", arg=old)
    np.testing.assert_array_equal(np.asarray(download(page)), np.asarray(first))
    choose(page, "#version", 1)
    page.get_by_text("Version 2", exact=True).wait_for()
    np.testing.assert_array_equal(np.asarray(download(page)), np.asarray(second))
    choose(page, "#against", 0)
    page.locator("#viewer .tag-before", has_text="Before").wait_for()


def test_objects_are_merged_into_one(page, photo):
    enlarge(page, photo)
    viewer = page.locator("#viewer .viewer")
    viewer.wait_for()
    choose(page, "#object", 0)
    alone = viewer.locator("canvas").evaluate(CHOSEN)
    choose(page, "#others", 1)
    page.locator("#others").get_by_text("Object").first.wait_for()
    both = viewer.locator("canvas").evaluate(CHOSEN)
    assert sum(both) > sum(alone)
    page.get_by_role("button", name="Merge into one").click()
    page.locator("#status").get_by_text("Done.").wait_for()
    page.wait_for_function("() => !document.querySelector('#others').innerText.includes('Object ')")
    assert viewer.locator("canvas").evaluate(CHOSEN) == both
    assert viewer.locator(".tag-after").inner_text() == "After"  # the picture is the same


def choose(page, field, place):
    """Picks an entry of a list, with the keyboard."""
    entry = page.locator(f"{field} input")
    entry.click()
    entry.fill("")
    page.locator("ul[role=listbox] li").nth(place).click()


def test_a_pasted_photo_and_the_keyboard_alone(page, photo):
    page.locator("#status[role=status]").wait_for(state="attached")  # the page's script has run
    page.evaluate(PASTE, base64.b64encode(photo.read_bytes()).decode())
    page.get_by_text("pasted").first.wait_for()
    assert "Enlarge" in tabs_until(page, "Enlarge")
    page.keyboard.press("Enter")
    page.locator("#status").get_by_text("160 × 224 pixels").wait_for()
    page.get_by_role("button", name="Download").wait_for()
    reached = tabs_until(page, "Download")
    for name in ("How much of the picture before is shown, in percent", "Show all objects", "Object",
                 "And its other parts", "Strength", "Apply strength", "Another version", "Merge into one",
                 "Reset object", "Reset all", "Version", "Compared with", "Download"):
        assert any(name in each for each in reached), (name, reached)


def tabs_until(page, name):
    """What the Tab key reaches, by the names that a screen reader says, up to one of them."""
    reached = []
    while name not in reached and len(reached) < 80:
        page.keyboard.press("Tab")
        reached.append(page.evaluate(NAME))
    return reached


PASTE = """photo => {
  const bytes = Uint8Array.from(atob(photo), letter => letter.charCodeAt(0)), clipboard = new DataTransfer();
  clipboard.items.add(new File([bytes], 'pasted.jpg', { type: 'image/jpeg' }));
  document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: clipboard, bubbles: true }));
}"""
NAME = """() => {
  const element = document.activeElement;
  const label = element.getAttribute('aria-label') || element.labels?.[0]?.innerText || element.innerText || '';
  return label.trim();
}"""
WATCH = """() => {  // a small photo is done before one can look: what the status says while it shows a progress bar
  window.statuses = [];
  const note = () => {
    if (document.querySelector('#status progress')?.checkVisibility())
      statuses.push(document.querySelector('#status').innerText);
  };
  new MutationObserver(note).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
LIT = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.filter(v => v).length"
CHOSEN = """canvas => new Promise(done => setTimeout(() => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  done(Array.from({length: data.length / 4}, (_, at) => data[4 * at + 3] > 0 ? 1 : 0));
}, 300))"""
"""The chosen object's pixels; the map of this picture is as large as the picture."""
