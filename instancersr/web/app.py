"""The page: what is on it, and what happens when somebody uses it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import UserError
from ..presets import DENOISE, FIDELITY
from ..recipe import QUALITIES, Quality
from .session import Changes, Enlarged, Session, Sessions
from .studio import Options, Outcome, Studio, address, compare_with, go_to, save
from .tasks import Progress, Stopped, Task, Worker

SCALES = [("2×", 2), ("3×", 3), ("4×", 4)]
LOOKS = {"natural": "Natural", "between": "In between", "faithful": "Faithful"}
FINDERS = [("The picture's own map", "map"), ("Segment Anything", "segmenter")]
TYPES = [("PNG", ".png"), ("JPEG", ".jpg"), ("WebP", ".webp")]

THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
"""The fonts are the visitor's own: none is fetched."""

CLICK = "() => document.querySelector('#download a')?.click()"
"""Once there is a link to the file, the download begins."""

BEFORE = -1
"""Among the numbers of versions: the photo before."""

Action = Callable[[Changes, int | None, list[int], float], tuple[Changes, str]]
"""What a button does: changes so far, the chosen object, the others with it, strength -> changes, and their name."""


def read_part(name: str) -> str:
    """The text of a file beside this module."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def build_page(studio: Studio, worker: Worker, sessions: Sessions) -> gr.Blocks:
    """The page, ready to be served."""
    with gr.Blocks(title="InstanceRSR", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# InstanceRSR\nMakes small, blurred or noisy photos large and clear, and lets you decide about "
                    "each object in them. Photos go to the computer that serves this page and nowhere else.",
                    elem_id="heading")
        with gr.Row():
            with gr.Column(scale=1, min_width=340):
                # any type: Gradio would refuse all files for the sake of one
                photos = gr.File(label="Photos: drop, paste or choose", file_count="multiple", height=160,
                                 elem_id="photos")
                scale = gr.Radio(SCALES, value=4, label="Enlarge")
                quality = gr.Radio([(name.capitalize(), name) for name in QUALITIES], value="balanced", label="Quality")
                look = gr.Radio([(LOOKS[name], name) for name in FIDELITY], value="natural", label="Look")
                finder = gr.Radio(FINDERS, value="map", label="Objects by", visible=studio.segments, elem_id="finder")
                noise = gr.Radio([(name.capitalize(), name) for name in DENOISE], value="auto", label="Noise and grain",
                                 visible=studio.denoises, elem_id="noise")
                suffix = gr.Radio(TYPES, value=".png", label="Save as")
                with gr.Row():
                    start = gr.Button("Enlarge", variant="primary", min_width=100, elem_id="start")
                    cancel = gr.Button("Cancel", interactive=False, min_width=100, elem_id="cancel")
                status = gr.HTML(elem_id="status", padding=True)
            with gr.Column(scale=3, min_width=320):
                viewer = gr.HTML(None, html_template=read_part("viewer.html"), css_template=read_part("viewer.css"),
                                 js_on_load=read_part("viewer.js"), elem_id="viewer")
                with gr.Column(visible=False, elem_id="objects") as panel:
                    with gr.Row(equal_height=True):
                        chosen = gr.Dropdown([], min_width=240, label="Object", elem_id="object",
                                             info="Choose one here, or click it in the picture.")
                        others = gr.Dropdown([], value=[], multiselect=True, min_width=240, label="And its other parts",
                                             elem_id="others", info="Choose them here, or click them with Shift.")
                        strength = gr.Slider(0, 1, value=1, step=0.05, min_width=240, label="Strength",
                                             elem_id="strength", info="0: closest to the photo. 1: fully restored.")
                    with gr.Row():
                        apply = gr.Button("Apply strength", size="sm", min_width=130, elem_id="apply")
                        again = gr.Button("Another version", size="sm", min_width=130, elem_id="again")
                        merge = gr.Button("Merge into one", size="sm", min_width=130, elem_id="merge")
                        reset = gr.Button("Reset object", size="sm", min_width=130, elem_id="reset")
                        reset_all = gr.Button("Reset all", size="sm", min_width=130, elem_id="reset-all")
                    with gr.Row(equal_height=True):
                        version = gr.Dropdown([], min_width=240, label="Version", elem_id="version",
                                              info="Go back to any: this one is on the right, and is downloaded.")
                        against = gr.Dropdown([], min_width=240, label="Compared with", elem_id="against",
                                              info="On the left. Hold the key F to see it alone.")
                download = gr.Button("Download", variant="primary", visible=False, elem_id="save")
                link = gr.HTML(elem_id="download")

        def busy(working: bool) -> dict:
            return {start: gr.update(interactive=not working), cancel: gr.update(interactive=working)}

        async def follow(key: str, session: Session, work: Callable[[Task], Any],
                         finish: Callable[[Any], dict]) -> AsyncGenerator[dict, None]:
            """Updates of the page while a task waits and runs, and those that `finish` makes of its result."""
            try:
                with sessions.working(session):
                    async with aclosing(worker.run(key, work)) as states:
                        async for state in states:
                            if isinstance(state, Progress):
                                yield {status: _progress(state), **busy(True)}
                            else:
                                yield finish(state) | busy(False)
            except Stopped:
                yield {status: "<p>Cancelled.</p>", **busy(False)}
            except UserError as error:
                yield {status: _problems([str(error)]), **busy(False)}
            except Exception:  # a bug; the page gets no traceback
                logging.getLogger(__name__).exception("a task failed")
                yield {status: _problems(["This did not work; the server's log says why."]), **busy(False)}

        async def enlarge(paths: list[str] | None, times: float, chosen_quality: Quality, chosen_look: str,
                          ending: str, chosen_noise: str, chosen_finder: str,
                          request: gr.Request) -> AsyncGenerator[dict, None]:
            if not paths:
                yield {status: _problems(["Choose a photo first."])}
                return
            session = sessions.begin(str(request.session_hash))
            options = Options(times, chosen_quality, FIDELITY[chosen_look], ending, DENOISE[chosen_noise],
                              chosen_finder == "segmenter")

            def work(task: Task) -> tuple[Outcome, Enlarged | None]:
                return studio.enlarge(session, [Path(path) for path in paths], options, task)

            def finish(done: tuple[Outcome, Enlarged | None]) -> dict:
                outcome, result = done
                sessions.keep(session, outcome.pixels, result)
                parts = shown(result, None) if result else {viewer: outcome.view}
                return parts | {
                    status: _summary(outcome), panel: gr.update(visible=bool(result and result.view["objects"])),
                    download: gr.update(visible=bool(result)),
                    link: _link(outcome.archive) if outcome.archive else ""}

            yield {viewer: None, panel: gr.update(visible=False), download: gr.update(visible=False), link: ""}
            async with aclosing(follow(str(request.session_hash), session, work, finish)) as updates:
                async for update in updates:
                    yield update

        def shown(result: Enlarged, number: int | None) -> dict:
            """What the page shows of a result with this object chosen, where it is there."""
            objects = [(each["label"], each["id"]) for each in result.view["objects"]]
            number = number if number in dict(objects).values() else None
            versions = [(f"{place}: {each.label}", place - 1) for place, each in enumerate(result.versions, 1)]
            return {viewer: result.view, strength: result.changes.of(number).strength,
                    chosen: gr.update(choices=objects, value=number), others: gr.update(choices=objects, value=[]),
                    version: gr.update(choices=versions, value=result.at),
                    against: gr.update(choices=[("The photo before", BEFORE), *versions],
                                       value=BEFORE if result.against is None else result.against)}

        def changing(act: Action) -> Callable:
            """What a button does that changes the objects."""

            async def change(number: int | None, more: list[int], value: float,
                             request: gr.Request) -> AsyncGenerator[dict, None]:
                try:
                    session, result = sessions.find(str(request.session_hash))
                    act(result.changes, number, more, value)  # what is not chosen is said at once
                except UserError as error:
                    yield {status: _problems([str(error)])}
                    return

                def finish(_: None) -> dict:
                    return {status: "<p>Done.</p>", link: ""} | shown(result, number)

                def work(task: Task) -> None:
                    # only now: while it waited in line, the changes before it were made
                    changes, label = act(result.changes, number, more, value)
                    studio.change(session, result, changes, label, task)

                async with aclosing(follow(str(request.session_hash), session, work, finish)) as updates:
                    async for update in updates:
                        yield update

            return change

        def looking(look: Callable[[Enlarged, int], None]) -> Callable:
            """What choosing a version does."""

            def choose(place: int, number: int | None, request: gr.Request) -> dict:
                try:
                    result = sessions.find(str(request.session_hash))[1]
                except UserError as error:
                    return {status: _problems([str(error)])}
                look(result, place)
                return {link: ""} | shown(result, number)

            return choose

        async def strength_of(number: int | None, request: gr.Request) -> float:
            try:
                return sessions.find(str(request.session_hash))[1].changes.of(number).strength
            except UserError:
                return 1

        def keep(ending: str, request: gr.Request) -> str:
            try:
                session, result = sessions.find(str(request.session_hash))
                path, notes = save(session, result, ending)
            except UserError as error:
                return _problems([str(error)])
            return _link(path) + _lines(notes)

        async def pick(event: gr.EventData, number: int | None, more: list[int]) -> tuple[int, list[int]]:
            if not event.more or number is None:
                return event.id, []
            return number, [each for each in more if each != event.id] + [event.id] * (event.id not in [number, *more])

        async def stop(request: gr.Request) -> None:
            worker.cancel(str(request.session_hash))

        async def leave(request: gr.Request) -> None:
            worker.cancel(str(request.session_hash))
            sessions.drop(str(request.session_hash))

        long: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
        short: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        after_look = [status, viewer, link, chosen, others, strength, version, against]
        after_change = [*after_look, start, cancel]
        start.click(enlarge, [photos, scale, quality, look, suffix, noise, finder], [*after_change, panel, download],
                    **long | {"api_visibility": "public"})
        for button, act in ((apply, _set_strength), (again, _draw_again), (merge, _merge), (reset, _reset),
                            (reset_all, _reset_all)):
            button.click(changing(act), [chosen, others, strength], after_change, **long)
        version.input(looking(go_to), [version, chosen], after_look, **short)
        against.input(looking(lambda result, place: compare_with(result, None if place == BEFORE else place)),
                      [against, chosen], after_look, **short)
        cancel.click(stop, None, None, **short)
        viewer.select(pick, [chosen, others], [chosen, others], **short)
        chosen.change(strength_of, chosen, strength, js="id => { window.highlightObject(id); return [id]; }", **short)
        others.change(None, others, None, js="ids => { window.highlightOthers(ids); return []; }", **short)
        download.click(keep, suffix, link, **long | {"api_visibility": "public"}).then(None, None, None, js=CLICK)
        page.unload(leave)
    return page


def _set_strength(changes: Changes, number: int | None, _: list[int], strength: float) -> tuple[Changes, str]:
    return changes.set(_known(number), strength=strength), f"Object {number} at strength {strength:g}"


def _draw_again(changes: Changes, number: int | None, *_: Any) -> tuple[Changes, str]:
    return changes.set(_known(number), seed=secrets.randbelow(2**32)), f"Object {number} once more"


def _merge(changes: Changes, number: int | None, others: list[int], _: float) -> tuple[Changes, str]:
    numbers = list(dict.fromkeys([_known(number), *others]))
    if len(numbers) == 1:
        raise UserError("Choose the other objects, too: click them with Shift, or pick them from the second list.")
    return changes.merge(numbers), f"Object {number}, merged"


def _reset(changes: Changes, number: int | None, *_: Any) -> tuple[Changes, str]:
    return changes.reset(_known(number)), f"Object {number} reset"


def _reset_all(*_: Any) -> tuple[Changes, str]:
    return Changes(), "all reset"


def _known(number: int | None) -> int:
    if number is None:
        raise UserError("Choose an object first: click it in the picture, or pick it from the list.")
    return number


# ------------------------------------------------------------------------------------------------ small HTML


def _progress(state: Progress) -> str:
    if state.ahead:
        others = "1 other task is" if state.ahead == 1 else f"{state.ahead} other tasks are"
        return f"<p>Waiting in line: {others} before yours.</p><progress aria-label='Progress'></progress>"
    left = "" if state.seconds_left is None else f" {_time_left(state.seconds_left)} left."
    return (f"<p>Working.{left}</p>"
            f"<progress value='{state.share:.3f}' max='1' aria-label='Progress'></progress>")


def _time_left(seconds: float) -> str:
    """Rounded, so that it does not flicker and a screen reader does not say it all the time."""
    if seconds < 60:
        return f"About {max(5, 5 * round(seconds / 5))} seconds"
    minutes = round(seconds / 60)
    return "About a minute" if minutes == 1 else f"About {minutes} minutes"


def _summary(outcome: Outcome) -> str:
    done = "<p>Done.</p>" if outcome.done else ""
    return _problems(outcome.problems) + done + _lines(outcome.done) + _lines(outcome.notes)


def _problems(lines: list[str]) -> str:
    return "".join(f"<p class='problem'>{escape(line)}</p>" for line in lines)


def _lines(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _link(path: Path) -> str:
    size = path.stat().st_size / 1e6
    return (f"<p><a href='{escape(address(path))}' download='{escape(path.name)}'>{escape(path.name)}</a> "
            f"({size:.1f} MB)</p>")
