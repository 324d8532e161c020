"""The page in a browser: what a person does with it, and that nothing of it leaves its own address."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emorl.runs import find_weights, load_weights
from emorl.web.handles import centroids, terms, visible
from emorl.web.networks import Decoder, Encoder, FirstDraw
from emorl.web.serve import make_server

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'emorl[dev]'")
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZE = 35
PATIENCE = 60_000  # ms; a busy machine is slow to start

SCENE = """async (which) => {
    const { state } = await import("./main.js");
    const { centroid, masks, mixture, owners, visible } = await import("./scene.js");
    const scene = state().scenes[which];
    const looks = scene.slots.map((slot) => slot.look);
    const shown = visible(looks);
    return {
        ids: scene.slots.map((slot) => slot.id),
        codes: scene.slots.map((slot) => Array.from(slot.code)),
        places: shown.map((values) => centroid(values, 35)).map((place) => place && [place.x, place.y]),
        labels: Array.from(owners(shown)),
        masks: masks(looks).map((mask) => Array.from(mask)),
        picture: Array.from(mixture(looks)),
        selected: scene.slots.findIndex((slot) => slot.id === scene.selected),
        name: scene.name,
    };
}"""


class Explorer:
    """The page and what the tests ask of it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.failed: list[str] = []
        """Errors and warnings of the page."""

    def scene(self, which: int = 0) -> dict[str, Any]:
        """What a scene is made of: codes, places, labels H W, masks K H W, picture 3 H W."""
        found: dict[str, Any] = self.page.evaluate(SCENE, which)
        shapes = {"labels": (SIZE, SIZE), "masks": (-1, SIZE, SIZE), "picture": (3, SIZE, SIZE)}
        return found | {name: np.reshape(found[name], shape) for name, shape in shapes.items()}

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def object(self, k: int, which: int = 0) -> Any:
        return self.page.locator(".objects").nth(which).get_by_role("button").nth(k)

    def point(self, x: float, y: float, which: int = 0) -> tuple[float, float]:
        """Where a pixel of a reconstruction is in the window."""
        box = self.page.locator(".stage canvas").nth(which).bounding_box()
        return box["x"] + (x + 0.5) * box["width"] / SIZE, box["y"] + (y + 0.5) * box["height"] / SIZE

    def open_sample(self, position: int) -> None:
        sample = self.page.locator("#samples button").nth(position)
        name = sample.locator("img").get_attribute("alt")
        sample.click()
        self.says(f"{name} is scene")

    def says(self, text: str) -> None:
        expect(self.page.locator("#status")).to_contain_text(text, timeout=PATIENCE)

    def objects(self, which: int = 0) -> list[int]:
        """Slots that show something."""
        return [k for k, place in enumerate(self.scene(which)["places"]) if place]


@pytest.fixture(scope="module")
def address(explorer: Path) -> Iterator[str]:
    server = make_server(explorer)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium on the path")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root has none
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def web(browser: Any, address: str) -> Iterator[Explorer]:
    """A fresh page with the first two samples open; no test may make it ask another host or fail in silence."""
    page = browser.new_page(viewport={"width": 1240, "height": 1000})
    explorer = Explorer(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: explorer.failed.append(str(error)))
    page.on("console", lambda line: explorer.failed.append(line.text) if line.type in ("error", "warning") else None)
    page.goto(address)
    explorer.says("Click an object")
    yield explorer
    page.close()
    assert len(asked) > 10
    assert not [url for url in asked if not url.startswith((address, f"blob:{address}"))]
    assert not explorer.failed


def test_masks_and_reconstruction_are_those_of_pytorch(web: Explorer, explorer: Path) -> None:
    model, _ = load_weights(find_weights("nano"))
    encoder, decoder = Encoder(model), Decoder(model, (SIZE, SIZE))
    noise = encoder.first_noise((SIZE, SIZE))
    samples = json.loads((explorer / "explorer.json").read_text())["samples"]
    for position, sample in enumerate(samples):
        web.open_sample(position)
        found = web.scene()
        pixels = np.asarray(Image.open(explorer / sample["file"]))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        codes = model.encode(image, encoder.options, noise=FirstDraw(noise))
        decoding = model.decode(codes, (SIZE, SIZE))
        np.testing.assert_allclose(found["masks"], decoding.masks[0, :, 0], atol=1e-3)
        np.testing.assert_allclose(found["picture"], decoding.reconstruction[0], atol=1e-3)
        logits, colours = decoder(codes[0])
        places = centroids(visible(logits[None], colours[None])[0])
        assert sum(place is not None for place in found["places"]) >= 2
        for place, expected in zip(found["places"], places, strict=True):
            assert place is None or place == pytest.approx(expected.tolist(), abs=0.1)
    assert position == 7


def free_way(scene: dict[str, Any], distance: int) -> tuple[int, int, int] | None:
    """An object, and a direction in which it has so much room; None where there is none."""
    labels = scene["labels"]
    for k, place in enumerate(scene["places"]):
        if not place:
            continue
        rows, columns = np.nonzero(labels == k)
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            top, bottom = rows.min() + min(0, dy * distance) - 2, rows.max() + max(0, dy * distance) + 2
            left, right = columns.min() + min(0, dx * distance) - 2, columns.max() + max(0, dx * distance) + 2
            inside = min(top, left) >= -1 and max(bottom, right) <= SIZE
            way = labels[max(top, 0) : bottom + 1, max(left, 0) : right + 1]
            if inside and not ((way != k) & (way >= 0)).any():
                return k, dx, dy
    return None


FOLLOWED = """async ([share, edge, patient, wall = 99, goals = [[14, 5]]]) => {
    const { Mover } = await import("./mover.js");
    const width = 20;
    const look = ([x, y]) => {
        const near = (_, p) => 6 - (p % width - Math.min(x, wall)) ** 2 - (Math.floor(p / width) - y) ** 2;
        return { logits: new Float32Array(400).map(near), colours: new Float32Array(1200).fill(x < edge ? 1 : 0) };
    };
    const background = { logits: new Float32Array(400), colours: new Float32Array(1200) };
    const networks = { width, decode: async (codes) => {
        decodes += codes.length;
        return codes.map((code) => look(code.map((value) => 8 + share * (value - 8))));
    } };
    const motion = { low: [0, 0], high: [20, 20], curve: [[20, 0], [0, 20], [0, 0], [0, 0], [0, 0]] };
    const mover = new Mover(networks, motion, [background], new Float32Array([8, 8]), look([8, 8]));
    let decodes = 0;
    let drawn = 0;
    const hooks = { moved: () => { drawn += 1; }, goOn: () => patient };
    for (const [x, y] of goals) await mover.follow({ x, y }, hooks);
    return { drawn, decodes, place: [mover.place.x, mover.place.y], code: Array.from(mover.code) };
}"""


def test_the_networks_leave_the_page_free(web: Explorer) -> None:
    """They run in a worker, which also takes the memory of what it is given: a picture is needed again."""
    assert any("/ort/" in worker.url for worker in web.page.workers)
    for seed in (1, 2):
        web.page.locator(".again").first.click()
        web.page.wait_for_function(f"import('./main.js').then(({{ state }}) => state().scenes[0].seed === {seed})")
    assert web.page.evaluate("async () => (await import('./main.js')).state().scenes[0].picture.length") == 3 * 35 * 35


def test_a_drag_arrives_in_few_steps_that_can_all_be_drawn(web: Explorer) -> None:
    at_once = web.page.evaluate(FOLLOWED, [1, 99, True])
    assert np.hypot(*np.subtract(at_once["place"], (14, 5))) < 0.2
    assert at_once["drawn"] == at_once["decodes"] == 1
    for share in (0.75, 1.4):  # an object that follows less than others do, and one that follows more
        corrected = web.page.evaluate(FOLLOWED, [share, 99, True])
        assert np.hypot(*np.subtract(corrected["place"], (14, 5))) < 0.25
        assert 2 <= corrected["drawn"] == corrected["decodes"] <= 4
        assert web.page.evaluate(FOLLOWED, [share, 99, False])["decodes"] == 1  # the hand is elsewhere by then


def test_a_copy_goes_where_there_is_room(web: Explorer) -> None:
    beside = """async ([place, others]) => {
        const points = others.map(([x, y]) => ({ x, y }));
        const { x, y } = (await import("./scene.js")).roomBeside({ x: place[0], y: place[1] }, points, 40, 20);
        return [x, y];
    }"""
    for x in (0, 13, 39):
        for y in (0, 10, 19):  # always one that is not at the border, also without any other object
            found = web.page.evaluate(beside, [[x, y], []])
            assert 5 <= found[0] <= 35
            assert 2.5 <= found[1] <= 17.5
    assert web.page.evaluate(beside, [[20, 10], [[30, 10], [10, 10], [10, 5]]]) == [20, 15]
    assert web.page.evaluate(beside, [[20, 10], [[10, 5], [10, 15], [20, 5], [20, 15], [30, 5]]]) == [30, 15]


def test_an_object_that_cannot_go_where_the_hand_is_stays_in_sight(web: Explorer) -> None:
    stopped = web.page.evaluate(FOLLOWED, [1, 12, True])  # nothing is seen of it from column 12 on
    assert 9 < stopped["place"][0] < 12
    assert stopped["decodes"] == 4
    hidden = web.page.evaluate(FOLLOWED, [20, 9, True])
    assert (hidden["drawn"], hidden["code"]) == (0, [8, 8])


def test_a_hand_that_stays_out_of_reach_leads_nowhere_else(web: Explorer) -> None:
    """What is missed is made up for within limits: the code is near those that were seen, and the way back is open."""
    beyond = [[17 + i % 2, 8] for i in range(50)]  # it stops at column 12
    away = web.page.evaluate(FOLLOWED, [1, 99, True, 12, beyond])
    assert abs(away["place"][0] - 12) < 0.2
    assert 12 <= away["code"][0] <= 18 + 20 / 8 + 0.01
    back = web.page.evaluate(FOLLOWED, [1, 99, True, 12, [*beyond, [8, 8]]])
    assert np.hypot(*np.subtract(back["place"], (8, 8))) < 0.2


def test_both_sides_mean_the_same_by_motion(web: Explorer) -> None:
    places = np.random.default_rng(0).uniform(-20, 40, (50, 2))
    low, high = np.array([3.0, 5]), np.array([27.0, 30])
    web.page.evaluate("async () => { globalThis.terms = (await import('./mover.js')).terms; }")
    script = "([places, bounds]) => places.map(([x, y]) => terms({ x, y }, bounds))"
    found = web.page.evaluate(script, [places.tolist(), {"low": low.tolist(), "high": high.tolist()}])
    np.testing.assert_allclose(found, terms((places - low) / (high - low)), atol=1e-12)


def test_drag_undo_redo_reset(web: Explorer) -> None:
    way = None
    for position in range(8):
        web.open_sample(position)
        before = web.scene()
        if way := free_way(before, 8):
            break
    assert way is not None
    k, dx, dy = way
    x, y = before["places"][k]
    web.page.mouse.move(*web.point(x, y))
    web.page.mouse.down()
    for step in range(1, 9):
        web.page.mouse.move(*web.point(x + dx * step, y + dy * step))
    web.page.mouse.up()
    expect(web.button("Undo")).to_be_enabled()
    expect(web.button("Redo")).to_be_disabled()
    web.page.wait_for_timeout(500)  # the last of its motion
    after = web.scene()
    assert after["selected"] == k
    assert np.hypot(*(np.array(after["places"][k]) - (x + 8 * dx, y + 8 * dy))) < 2
    others = set(before["labels"].flat) - {-1, k}
    assert others
    for other in others:
        own = before["labels"] == other
        assert np.abs(after["picture"] - before["picture"])[:, own].mean() < 0.01
    for other in set(range(len(after["codes"]))) - {k}:
        assert after["codes"][other] == before["codes"][other]

    web.page.keyboard.press("Control+z")
    assert web.scene()["codes"] == before["codes"]
    web.page.keyboard.press("Control+Shift+z")
    assert web.scene()["codes"] == after["codes"]
    web.button("Reset").click()
    assert web.scene()["codes"] == before["codes"]
    expect(web.button("Reset")).to_be_disabled()


def test_remove_duplicate_copy_swap(web: Explorer) -> None:
    before, second = web.scene(0), web.scene(1)
    k, other = web.objects(0)[0], web.objects(1)[0]
    web.object(other, 1).click()
    web.object(k).click()
    web.button("Swap between scenes").click()
    web.says("Swapped")
    assert web.scene(0)["codes"][k] == second["codes"][other]
    assert web.scene(1)["codes"][other] == before["codes"][k]
    web.button("Undo").click()
    assert (web.scene(0)["codes"], web.scene(1)["codes"]) == (before["codes"], second["codes"])

    web.object(k).click()
    web.button("Duplicate").click()
    web.says("Duplicated")
    found = web.scene()
    assert len(found["codes"]) == len(before["codes"]) + 1
    assert 4 < np.hypot(*np.subtract(found["places"][-1], before["places"][k])) < 16
    web.object(k).click()
    web.button("Duplicate").click()
    web.page.wait_for_function(
        "count => import('./main.js').then(({ state }) => state().scenes[0].slots.length == count)",
        arg=len(before["codes"]) + 2,
    )
    first, again = web.scene()["places"][-2:]
    assert np.hypot(*np.subtract(first, again)) > 4  # not one upon the other
    web.button("Undo").click()
    found = web.scene()
    web.object(len(before["codes"])).click()
    web.button("Copy to other scene").click()
    web.says("Copied to scene 2")
    assert web.scene(1)["codes"] == [*second["codes"], found["codes"][-1]]
    web.button("Undo").click()

    web.object(len(before["codes"])).click()
    web.button("Remove").click()
    web.says("Removed")
    assert web.scene()["codes"] == before["codes"]
    web.object(k).click()
    web.button("Remove").click()
    found = web.scene()
    own = before["labels"] == k
    assert found["codes"] == [code for i, code in enumerate(before["codes"]) if i != k]
    assert np.abs(found["picture"] - before["picture"])[:, own].max() > 0.3  # it is gone
    for _ in range(len(found["codes"]) - 1):
        web.object(0).click()
        web.button("Remove").click()
    web.object(0).click()
    web.button("Remove").click()
    web.says("The last slot stays")
    assert len(web.scene()["codes"]) == 1


def test_sliders_change_one_dimension_of_one_slot(web: Explorer, explorer: Path) -> None:
    before = web.scene()
    k = web.objects()[0]
    web.object(k).click()
    facts = json.loads((explorer / "explorer.json").read_text())
    sliders = web.page.get_by_role("slider")
    expect(sliders).to_have_count(8)
    slider = sliders.first
    first = facts["dimensions"][0]
    assert web.page.get_by_label(first["name"]).first.is_visible()
    slider.fill(str(first["high"]))
    expect(web.button("Undo")).to_be_enabled()
    web.page.wait_for_timeout(300)
    after = web.scene()
    changed = np.array(after["codes"]) != np.array(before["codes"])
    assert np.argwhere(changed).tolist() == [[k, first["index"]]]
    assert np.abs(after["picture"] - before["picture"]).max() > 0.1
    web.button("All dimensions").click()
    expect(sliders).to_have_count(len(facts["dimensions"]))
    web.button("Undo").click()
    assert web.scene()["codes"] == before["codes"]


def test_keys(web: Explorer) -> None:
    before = web.scene()
    k = web.objects()[0]
    web.page.get_by_role("application").first.focus()
    web.page.keyboard.press(str(k + 1))
    assert web.scene()["selected"] == k
    x, y = before["places"][k]
    away = "ArrowRight" if x < SIZE / 2 else "ArrowLeft"
    web.page.keyboard.press(f"Shift+{away}")
    web.page.wait_for_timeout(500)
    moved = np.array(web.scene()["places"][k]) - (x, y)
    np.testing.assert_allclose(moved, [4 if away == "ArrowRight" else -4, 0], atol=1)
    web.page.keyboard.press("d")
    web.says("Duplicated")
    web.page.keyboard.press("Delete")
    web.says("Removed")
    web.page.keyboard.press("Control+z")
    web.page.keyboard.press("Control+z")
    web.page.keyboard.press("Control+z")
    assert web.scene()["codes"] == before["codes"]


def test_what_is_asked_for_at_once_is_done_in_turn(web: Explorer) -> None:
    before = web.scene()
    k = web.objects()[0]
    web.object(k).click()
    web.page.evaluate(
        """() => {
            for (const key of ["d", "D", "d"]) { // the second one with caps lock
                document.querySelector(".stage").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
            }
        }"""
    )
    expect(web.page.locator(".objects").first.get_by_role("button")).to_have_count(len(before["codes"]) + 3)
    web.page.evaluate("() => [...document.querySelectorAll('#samples button')].slice(2, 5).forEach((b) => b.click())")
    web.says("tetrominoes 60004 is scene 1")
    assert web.scene()["name"] == "tetrominoes 60004"


def test_a_slider_that_is_left_while_it_works_changes_no_other_scene(web: Explorer) -> None:
    web.object(web.objects(1)[0], 1).click()
    web.object(web.objects(0)[0], 0).click()
    second = web.scene(1)
    web.page.evaluate(
        """() => {
            const slider = document.querySelector("#dimensions input");
            slider.value = slider.max;
            slider.dispatchEvent(new Event("input"));
            document.querySelectorAll(".objects")[1].querySelector("[aria-pressed=true]").click();
            slider.dispatchEvent(new Event("change"));
        }"""
    )
    web.page.wait_for_timeout(500)
    assert (web.scene(1)["ids"], web.scene(1)["codes"]) == (second["ids"], second["codes"])


def test_looking_again_begins_from_other_slots(web: Explorer) -> None:
    before = web.scene()
    web.button("Look again").first.click()
    web.says("other random slots")
    again = web.scene()
    assert not np.allclose(again["codes"], before["codes"], atol=0.1)
    assert np.abs(again["picture"] - before["picture"]).mean() < 0.05  # of the same picture
    web.button("Undo").click()
    assert web.scene()["codes"] == before["codes"]


def test_what_is_saved(web: Explorer) -> None:
    scene = web.scene()
    with web.page.expect_download() as download:
        web.button("Codes (JSON)").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert download.value.suggested_filename == "tetrominoes-60000.json"
    assert (saved["weights"], saved["size"], saved["slots"]) == ("nano", [SIZE, SIZE], scene["codes"])
    with web.page.expect_download() as download:
        web.button("Picture (PNG)").click()
    picture = np.asarray(Image.open(download.value.path()).convert("RGB")) / 255
    np.testing.assert_allclose(picture.transpose(2, 0, 1), scene["picture"], atol=0.005)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_bad_pictures_get_one_message_each_and_the_page_lives_on(web: Explorer) -> None:
    chooser = web.page.locator("#file")
    before = web.scene()
    for name, content, said in [
        ("huge.png", encoded(Image.new("1", (10_000, 10_000)), "PNG"), "10000 x 10000 pixels, which is too many"),
        ("text.png", b"this is no picture", "no picture that this browser can read"),
        ("empty.png", b"", "is empty"),
        ("cut.jpg", encoded(Image.new("RGB", (50, 50)), "JPEG")[:100], "no picture that this browser can read"),
    ]:
        chooser.set_input_files({"name": name, "mimeType": "image/png", "buffer": content})
        web.says(f"{name}: ")
        web.says(said)
        assert web.scene()["codes"] == before["codes"]
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    chooser.set_input_files({"name": "moving.gif", "mimeType": "image/gif", "buffer": moving})
    web.says("moving.gif is scene 1. It is an animation: this is its first picture.")
    shown = web.page.evaluate("async () => Array.from((await import('./main.js')).state().scenes[0].picture)")
    assert np.reshape(shown, (3, -1)).mean(axis=1) == pytest.approx([1, 0, 0], abs=0.02)
    web.open_sample(0)
    assert web.scene()["codes"] == before["codes"]


GIVE = """([kind, bytes]) => {
    const given = new DataTransfer();
    given.items.add(new File([new Uint8Array(bytes)], "own.png", { type: "image/png" }));
    const event = kind === "paste"
        ? new ClipboardEvent(kind, { clipboardData: given, bubbles: true })
        : new DragEvent(kind, { dataTransfer: given, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
}"""


def test_own_pictures_are_cut_and_resized(web: Explorer) -> None:
    pixels = np.zeros((70, 110, 4), np.uint8)
    pixels[:, 20:90] = (0, 255, 0, 255)  # the largest centred window
    pixels[:35, 20:55] = (255, 255, 255, 0)  # transparent: over black
    content = encoded(Image.fromarray(pixels), "PNG")
    web.page.locator("#file").set_input_files({"name": "own.png", "mimeType": "image/png", "buffer": content})
    web.says("own.png is scene 1")
    expected = np.zeros((3, SIZE, SIZE))
    expected[1] = 1
    expected[:, :17, :17] = 0
    for kind in ("paste", "drop", None):
        picture = web.page.evaluate("async () => Array.from((await import('./main.js')).state().scenes[0].picture)")
        away = np.ones((SIZE, SIZE), bool)
        away[16:19], away[:, 16:19] = False, False  # where the quarters meet they mix
        np.testing.assert_allclose(np.reshape(picture, expected.shape)[:, away], expected[:, away], atol=0.01)
        web.open_sample(1)
        if kind:
            web.page.evaluate(GIVE, [kind, list(content)])
            web.says("own.png is scene 1")


def test_the_policy_is_in_force(web: Explorer) -> None:
    """Scripts inside the page, and other addresses, are refused by the browser."""
    refused = web.page.evaluate(
        """async () => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "globalThis.ran = true";
            document.body.append(script);
            const reached = await fetch("http://localhost:9/").then(() => true, () => false);
            await new Promise((resolve) => setTimeout(resolve, 100));
            return [[...new Set(found)].sort(), reached, globalThis.ran ?? false];
        }"""
    )
    assert refused == [["connect-src", "script-src-elem"], False, False]
    assert all("Content Security Policy" in line for line in web.failed)
    web.failed.clear()


@pytest.mark.parametrize("width", [360, 800])
def test_it_fits_narrow_screens(web: Explorer, width: int) -> None:
    name, content = f"{'very_long_name_' * 8}.png", encoded(Image.new("RGB", (SIZE, SIZE), "red"), "PNG")
    web.page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})
    web.says("is scene 1")
    web.object(0).click()
    web.page.set_viewport_size({"width": width, "height": 740})
    assert web.page.evaluate("document.documentElement.scrollWidth") <= width
    stage = web.page.locator(".stage").first.bounding_box()
    assert stage["width"] > 180
    assert stage["width"] == pytest.approx(stage["height"], rel=0.02)


def test_everything_has_a_name_for_screen_readers(web: Explorer) -> None:
    web.object(web.objects()[0]).click()
    nameless = web.page.evaluate(
        """() => [...document.querySelectorAll("button, input, img, [role]")].filter((element) => {
            const label = element.getAttribute("aria-label") || element.getAttribute("alt") || element.textContent;
            return !(label || "").trim() && !element.labels?.length && !element.querySelector("img[alt]");
        }).map((element) => element.outerHTML)"""
    )
    assert nameless == []
    expect(web.page.get_by_role("button", pressed=True)).to_have_count(1)
    stage = web.page.get_by_role("application").first
    assert "objects, Object" in stage.get_attribute("aria-label")
