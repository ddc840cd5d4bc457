import json
import os
import pathlib
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

from delf_jax.files import InputError
from delf_jax.index import photo_index
from delf_jax.search import query
from delf_jax.store import feature_store
from tests.helpers.indexed_photos import NAMES, draw_photo
from tests.helpers.pages import Reader


def test_a_search_finds_what_the_command_finds(serve, photo, copied, model, settings):
    found = serve().post("/api/search", files=photo, data={"top": 3}).json()
    index = photo_index.open_index(copied / "index")
    path = copied / "elsewhere.jpg"
    shutil.copy(copied / "photos/a/1.jpg", path)
    (answer,) = query.search(index, [path], model, settings, top=3)
    (expected,) = query.to_json([answer])["queries"]
    assert found["confident"] == expected["confident"]
    assert found["inliers_by_chance"] == expected["inliers_by_chance"]
    known = [{k: r[k] for k in expected["results"][0]} for r in found["results"]]
    assert known == expected["results"]
    assert [result["rank"] for result in found["results"]] == [1, 2, 3]
    lines = np.array(found["results"][0]["lines"])
    np.testing.assert_allclose(lines[:, :2], lines[:, 2:])  # The photo itself.


def test_candidates_come_at_once_and_verified_results_as_they_come(serve, photo):
    data = {"stream": "true", "top": 2}
    response = serve().post("/api/search", files=photo, data=data)
    assert response.headers["content-type"] == "application/x-ndjson"
    first, *_, last = map(json.loads, response.text.splitlines())
    assert first["verified"] == 0 and first["confident"] is None
    assert {result["inliers"] for result in first["results"]} == {None}
    assert last["verified"] == last["candidates"] == len(NAMES)
    assert last["confident"] is True and last["results"][0]["image"] == "a/1.jpg"


def test_pages_follow_each_other(serve, photo):
    client = serve()
    pages = [
        client.post("/api/search", files=photo, data={"top": 3, "skip": skip}).json()
        for skip in (0, 3, 6)
    ]
    assert [page["more"] for page in pages] == [True, False, False]
    found = [result["image"] for page in pages for result in page["results"]]
    assert sorted(found) == sorted(NAMES)
    ranks = [result["rank"] for page in pages for result in page["results"]]
    assert ranks == [1, 2, 3, 4]


def test_lines_of_a_part_end_in_the_whole_photo(serve, photo):
    box = {"box": "0,0.25,1,1", "top": 1}
    found = serve().post("/api/search", files=photo, data=box).json()
    (result,) = found["results"]
    assert result["image"] == "a/1.jpg" and result["inliers"] > 6
    lines = np.array(result["lines"])
    np.testing.assert_allclose(lines[:, :2], lines[:, 2:], atol=0.05)
    assert (lines[:, 1] >= 0.25).all()


@pytest.mark.parametrize("box", ["1", "0,0,2,1", "0.5,0,0.5,1", "a,b,c,d", "nan,0,1,1"])
def test_boxes_that_are_none_are_refused(serve, photo, box):
    response = serve().post("/api/search", files=photo, data={"box": box})
    assert response.status_code == 400 and box in response.json()["detail"]


@pytest.mark.parametrize(
    "content", [b"", b"no photo", b"\xff\xd8\xff\xe0 cut", b"%!PS"]
)
def test_what_is_no_photo_is_refused_in_a_sentence(serve, content):
    client = serve()
    for address in ("/api/search", "/search", "/api/match"):
        files = {"photo": ("x.jpg", content)}
        response = client.post(address, files=files, data={"image": "a/1.jpg"})
        assert response.status_code == 400
        assert "\n" not in response.json()["detail"]
    assert client.get("/healthz").json()["status"] == "ok"


def test_an_upload_has_at_most_so_many_bytes_and_pixels(serve, photo, monkeypatch):
    client = serve(most_bytes=20_000)
    large = {"photo": ("x.jpg", bytes(30_000))}
    assert client.post("/api/search", files=large).status_code == 413

    def pieces():  # Without a length.
        head = (
            b'--b\r\nContent-Disposition: form-data; name="photo"; filename="x"\r\n\r\n'
        )
        yield from [head, *[bytes(10_000)] * 3, b"\r\n--b--\r\n"]

    form = {"content-type": "multipart/form-data; boundary=b"}
    sent = client.post("/api/search", content=pieces(), headers=form)
    assert sent.status_code == 413 and "MiB" in sent.json()["detail"]
    monkeypatch.setattr("delf_jax.serve.engine.MOST_PIXELS", 1000)
    refused = client.post("/api/search", files=photo)
    assert refused.status_code == 400 and "pixels" in refused.json()["detail"]


def test_a_match_is_of_two_files_or_of_a_photo_of_the_index(serve, photo):
    client = serve()
    one = client.post("/api/match", files=photo, data={"image": "a/1.jpg"}).json()
    other = client.post("/api/match", files={**photo, "other": photo["photo"]}).json()
    assert one["inliers"] == other["inliers"] > 6
    assert one["confident"] and one["images"][1] == "a/1.jpg"
    assert client.post("/api/match", files=photo).status_code == 400
    gone = client.post("/api/match", files=photo, data={"image": "../a"})
    assert gone.status_code == 404


def test_photos_are_sent_as_they_are_or_small(serve, copied):
    client = serve()
    whole = client.get("/api/image/a/1.jpg")
    assert whole.content == (copied / "photos/a/1.jpg").read_bytes()
    assert whole.headers["content-type"] == "image/jpeg"
    small = client.get("/api/image/b/c/3.png?side=160")
    assert small.headers["content-type"] == "image/jpeg"
    assert client.get("/api/image/a/1.jpg?side=161").status_code == 400


def test_photos_that_browsers_do_not_show_are_sent_as_jpeg(serve, copied):
    path = copied / "photos/a/2.jpg"
    Image.open(path).save(path, "TIFF")
    sent = serve().get("/api/image/a/2.jpg")
    assert sent.headers["content-type"] == "image/jpeg"
    assert sent.content.startswith(b"\xff\xd8")


def test_uploads_that_browsers_do_not_show_come_back_as_jpeg(serve, copied):
    path = copied / "photo.tif"
    Image.open(copied / "photos/a/1.jpg").save(path)
    client = serve()
    sent = client.post("/preview", files={"photo": ("x.tif", path.read_bytes())})
    assert sent.headers["content-type"] == "image/jpeg"
    assert sent.content.startswith(b"\xff\xd8")
    none = client.post("/preview", files={"photo": ("x.tif", b"none")})
    assert none.status_code == 400


@pytest.mark.parametrize(
    "id",
    [
        "../index/index.json",
        "%2e%2e/index/index.json",
        "..%2findex%2findex.json",
        "/etc/passwd",
        "a/../../index/index.json",
        "a/1.jpg%00",
        "none.jpg",
        "",
    ],
)
def test_ids_never_leave_the_index(serve, id):
    client = serve()
    for kind in ("image", "attention"):
        # As raw bytes: the client would resolve the dots.
        url = client.base_url.copy_with(raw_path=f"/api/{kind}/{id}".encode())
        assert client.get(url).status_code == 404


def test_photos_from_elsewhere_are_shown_only_where_that_is_asked_for(
    serve, copied, model, settings, tmp_path_factory
):
    outside = tmp_path_factory.mktemp("outside") / "secret.jpg"
    draw_photo(outside, 9)
    photo_index.add_images([outside], copied / "index", model, settings, progress=False)
    assert serve().get("/api/image/secret.jpg").status_code == 404
    assert serve(outside=True).get("/api/image/secret.jpg").status_code == 200


def test_an_index_that_names_other_files_shows_none_of_them(serve, copied):
    (copied / "photos/a/1.jpg").unlink()
    (copied / "photos/a/1.jpg").symlink_to("/etc/passwd")
    client = serve()
    for address in ("/api/image/a/1.jpg", "/api/image/a/1.jpg?side=320"):
        refused = client.get(address)
        assert refused.status_code == 404 and str(copied) not in refused.text


def test_names_may_have_any_bytes(serve, copied, model, settings, photo):
    name = os.fsdecode(b"caf\xe9 <b>&.jpg")
    shutil.copy(copied / "photos/a/1.jpg", copied / "photos" / name)
    photo_index.make_index(
        [copied / "photos"], copied / "index", model, settings, progress=False
    )
    client = serve()
    found = client.post("/api/search", files=photo, data={"top": 2}).json()
    assert name in [result["image"] for result in found["results"]]
    lines = client.post("/search", files=photo, data={"top": 2}).text.splitlines()
    reader = Reader(json.loads(lines[-1])["html"])
    assert not reader.all("b>")
    cards = {card["data-image"]: card for card in reader.all("button")}
    card = cards[r"caf\xe9 <b>&.jpg"]
    url = client.base_url.copy_with(raw_path=f"/{card['data-full']}".encode())
    assert client.get(url).status_code == 200


def test_another_address_wants_a_token_in_a_header_or_once_in_the_page(serve, photo):
    client = serve(token="se cret")
    assert client.post("/api/search", files=photo).status_code == 401
    assert client.get("/api/image/a/1.jpg").status_code == 401
    assert client.get("/healthz").status_code == 200  # Says nothing of the photos.
    asked = client.get("/", headers={"accept": "text/html"})
    assert asked.status_code == 401 and "token" in asked.text
    for given in ("Bearer se cret", "se cret"):
        header = {"authorization": given}
        assert client.get("/metrics", headers=header).status_code == 200
    wrong = {"authorization": "Bearer other"}
    assert client.get("/metrics", headers=wrong).status_code == 401
    page = client.get("/", params={"token": "se cret"})
    assert page.status_code == 200 and "token" not in str(page.url)
    assert client.post("/api/search", files=photo).status_code == 200


def test_pages_of_others_reach_nothing(serve, photo):
    client = serve(hosts=("localhost",))
    elsewhere = {"origin": "http://elsewhere.example"}
    refused = client.post("/api/search", files=photo, headers=elsewhere)
    assert refused.status_code == 403
    own = {"origin": "http://localhost:8000"}
    assert client.post("/api/search", files=photo, headers=own).status_code == 200
    rebound = {"host": "elsewhere.example:8000"}
    assert client.get("/", headers=rebound).status_code == 403
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy


def test_too_many_requests_of_one_address_are_answered_by_429(serve, photo):
    client = serve(rate=3)
    statuses = [
        client.post("/api/match", files=photo, data={"image": "none"}).status_code
        for _ in range(5)
    ]
    assert statuses == [404, 404, 404, 429, 429]
    refused = client.post("/api/search", files=photo)
    assert int(refused.headers["retry-after"]) >= 1
    assert client.get("/").status_code == 200  # Looking costs nothing.


def test_more_searches_than_may_wait_are_answered_by_429(serve, photo, monkeypatch):
    from delf_jax.serve.engine import Engine

    release, begun = threading.Event(), threading.Event()
    original = Engine.search

    def slow(self, *args, **kwargs):
        begun.set()
        assert release.wait(60)
        yield from original(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "search", slow)
    client, statuses = serve(waiting=2), []

    def ask():
        response = client.post("/api/search", files=photo)
        statuses.append(response.status_code)

    def start():
        thread = threading.Thread(target=ask)
        thread.start()
        return thread

    threads = [start()]
    assert begun.wait(60)  # One is being done,
    threads += [start(), start()]  # and two wait.
    metrics = ""
    for _ in range(600):
        metrics = client.get("/metrics").text
        if "delf_jax_waiting 2.0" in metrics:
            break
        time.sleep(0.05)
    assert "delf_jax_waiting 2.0" in metrics
    refused = client.post("/api/search", files=photo)
    assert refused.status_code == 429 and refused.headers["retry-after"]
    release.set()
    for thread in threads:
        thread.join()
    assert statuses == [200, 200, 200]


def test_a_second_process_may_add_photos_which_are_then_found(
    serve, copied, model, settings, monkeypatch
):
    monkeypatch.setattr("delf_jax.serve.engine._FRESH", 0.0)
    client = serve()
    new = copied / "photos/new.jpg"
    draw_photo(new, 77)
    files = {"photo": ("x.jpg", new.read_bytes())}
    before = client.post("/api/search", files=files, data={"top": 1}).json()
    assert before["photos"] == 4 and before["results"][0]["image"] != "new.jpg"
    photo_index.add_images([new], copied / "index", model, settings, progress=False)
    after = client.post("/api/search", files=files, data={"top": 1}).json()
    assert after["photos"] == 5 and after["results"][0]["image"] == "new.jpg"
    photo_index.remove_images(copied / "index", ["new.jpg"])
    assert client.post("/api/search", files=files).json()["photos"] == 4


def test_an_index_that_is_damaged_meanwhile_is_searched_as_it_was(
    serve, copied, photo, monkeypatch
):
    monkeypatch.setattr("delf_jax.serve.engine._FRESH", 0.0)
    client = serve()
    (copied / "index/index.json").write_text("{")
    found = client.post("/api/search", files=photo)
    assert found.status_code == 200 and found.json()["photos"] == 4
    assert "index.json" in client.get("/healthz").json()["message"]


def test_photos_are_added_where_that_is_allowed(serve, copied, tmp_path):
    assert serve().post("/api/add", files={"photo": b"x"}).status_code == 404
    client = serve(writable=True)
    draw_photo(tmp_path / "new.jpg", 5)
    content = (tmp_path / "new.jpg").read_bytes()
    names = ["new.jpg", "new.jpg", "../../up.jpg", ".hidden", "x.exe", "a\\b\x1b.png"]
    added = []
    for name in names:
        response = client.post("/api/add", files={"photo": (name, content)})
        assert response.status_code == 200, response.text
        added.append(response.json()["image"])
    assert added[:3] == ["added/new.jpg", "added/new (2).jpg", "added/up.jpg"]
    assert added[3:] == ["added/photo.jpg", "added/x.exe.jpg", "added/b.png"]
    for id in added:
        assert (copied / "photos" / id).read_bytes() == content
    files = {"photo": ("q.jpg", content)}
    found = client.post("/api/search", files=files, data={"top": 6}).json()
    assert {result["image"] for result in found["results"]} == {*added}
    assert found["photos"] == 10


def test_what_cannot_be_indexed_is_not_left_in_the_folder(serve, copied, tmp_path):
    client = serve(writable=True)
    Image.new("RGB", (5, 300)).save(tmp_path / "thin.png")
    for content in (b"no photo", (tmp_path / "thin.png").read_bytes()):
        response = client.post("/api/add", files={"photo": ("thin.png", content)})
        assert response.status_code == 400
        assert "added" not in response.json()["detail"]
    assert not [*pathlib.Path(copied / "photos/added").glob("*")]
    store = feature_store.open_store(copied / "index/store")
    assert len(store) == 4 and not store.failed


def test_nothing_of_a_query_is_kept(serve, copied, photo, monkeypatch):
    import tempfile

    def refuse(*args, **kwargs):
        raise AssertionError("a file was made")

    client = serve()
    before = sorted(copied.rglob("*"))
    monkeypatch.setattr(tempfile, "_mkstemp_inner", refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    large = photo["photo"][1] + bytes(3 << 20)  # Behind the end of a JPEG.
    files = {"photo": ("x.jpg", large)}
    assert client.post("/api/search", files=files).status_code == 200
    assert sorted(copied.rglob("*")) == before


def test_the_page_and_the_api_describe_themselves(serve):
    client = serve(writable=True)
    page = Reader(client.get("/").text)
    assert page.all("input", type="file", capture="environment")
    assert {link["href"] for link in page.all("a") if "href" in link} >= {"#main"}
    for link in [*page.all("link"), *page.all("script")]:
        source = link.get("src") or link["href"]
        assert source == "data:," or client.get(f"/{source}").status_code == 200
    assert client.get("/static/base.html").status_code == 404
    text = client.get("/docs").text
    schema = client.get("/openapi.json").json()
    assert {"/api/search", "/api/match", "/api/image/{image}", "/healthz"} <= {
        *schema["paths"]
    }
    assert all(path in text for path in schema["paths"])
    # The pages need nothing from elsewhere.
    assert "http" not in text.replace("openapi.json", "")


def test_metrics_count_requests_by_path_and_status(serve, photo):
    client = serve()
    client.post("/api/search", files=photo)
    client.get("/api/image/a/1.jpg")
    client.get("/api/image/none.jpg")
    text = client.get("/metrics").text
    count = "delf_jax_requests_total"
    assert f'{count}{{path="/api/search",status="200"}} 1.0' in text
    assert f'{count}{{path="/api/image/{{image:path}}",status="404"}} 1.0' in text
    assert "process_resident_memory_bytes" in text and "delf_jax_photos 4.0" in text


def test_attention_is_in_parts_of_the_photo(serve):
    rows = np.array(serve().get("/api/attention/a/1.jpg").json())
    assert rows.shape[1] == 4 and len(rows) > 6
    assert (rows[:, :2] >= 0).all() and (rows[:, :2] <= 1).all()
    assert (rows[:, 2] > 0).all() and (np.diff(rows[:, 3]) <= 0).all()


def test_an_index_without_photos_is_refused(serve, copied):
    photo_index.remove_images(copied / "index", NAMES)
    with pytest.raises(InputError, match="has no photos"):
        serve()
