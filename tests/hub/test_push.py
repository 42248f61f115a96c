"""Pushing by the real client to a server that speaks the Hub's protocol: what arrives, is refused, breaks."""

import dataclasses
import socket

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi

from dinox_hf.hub import push as push_module
from dinox_hf.hub.card_checks import refuse_invalid_card
from dinox_hf.hub.export import Answer
from dinox_hf.hub.publish import refuse_other_tokens
from dinox_hf.hub.push import PushOptions, push
from dinox_hf.hub.release import Check, Release, files_in, run_check

from .loopback import serve
from .loopback_store import LoopbackHub

WRITER, READER, OTHER = "hf_writer_0123456789", "hf_reader_0123456789", "hf_other_0123456789"
CARD = "---\nlicense: gpl-3.0\nlibrary_name: transformers\n---\n\n# Tiny\n"


@pytest.fixture
def online(monkeypatch):
    """The client is not told to stay offline, and waits for nothing."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def hub(online):
    """An empty Hub."""
    with serve(LoopbackHub()) as started:
        yield started


@pytest.fixture
def release(tmp_path) -> Release:
    folder = tmp_path / "release"
    (folder / "figures").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"dinox_run": "1"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4000)
    (folder / "figures" / "attention.png").write_bytes(b"\x89PNG" * 50)
    checks = [Check("file kinds", "4 files", is_passed=True)]
    return Release("dinox/tiny-ct", "model", "Tiny, run 1", files_in(folder), checks)


def client(hub, token=WRITER) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def contents(release) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in release.files.items()}


def test_a_new_repository_is_private_and_whole_after_one_commit(hub, release):
    done = push(release, PushOptions(), client(hub))
    model = hub.model("dinox/tiny-ct")
    assert model.files() == contents(release)
    assert model.history == ["initial commit", "Tiny, run 1"]
    assert (done.num_changed, done.is_private, model.is_private) == (4, True, True)
    assert done.url == f"{hub.url}/dinox/tiny-ct/commit/{model.refs['main']}"


def test_large_files_go_through_lfs(hub, release):
    push(release, PushOptions(), client(hub))
    assert hub.model("dinox/tiny-ct").find("main").files["model.safetensors"].is_lfs
    assert sum(request.startswith("PUT /large/") for request in hub.requests) == 2


def test_an_unchanged_folder_makes_no_commit_and_sends_no_file(hub, release):
    push(release, PushOptions(), client(hub))
    hub.requests.clear()
    done = push(release, PushOptions(), client(hub))
    assert done.num_changed == 0 and len(hub.model("dinox/tiny-ct").history) == 2
    assert not [request for request in hub.requests if "/large/" in request or "preupload" in request]


def test_a_changed_folder_replaces_what_changed_and_deletes_what_is_gone(hub, release):
    push(release, PushOptions(), client(hub))
    release.files["config.json"].write_text('{"dinox_run": "2"}')
    files = {name: path for name, path in release.files.items() if not name.startswith("figures/")}
    done = push(dataclasses.replace(release, files=files, title="Tiny, run 2"), PushOptions(), client(hub))
    assert done.num_changed == 2 and hub.model("dinox/tiny-ct").history[2:] == ["Tiny, run 2"]
    assert set(hub.model("dinox/tiny-ct").files()) == set(files)


def test_public_only_when_whole(hub, release):
    done = push(release, PushOptions(is_public=True), client(hub))
    assert not done.is_private and not hub.model("dinox/tiny-ct").is_private
    steps = [request for request in hub.requests if request.startswith(("POST /api/models", "PUT /api"))]
    assert "commit" in steps[-2] and "settings" in steps[-1]


def test_a_branch_is_made_and_main_stays_as_it_was(hub, release):
    push(release, PushOptions(revision="candidate"), client(hub))
    model = hub.model("dinox/tiny-ct")
    assert model.files("candidate") == contents(release) and model.files() == {}


def test_a_tag_stands_at_the_pushed_commit_and_never_moves(hub, release):
    for _ in range(2):
        push(release, PushOptions(tag="v1.0"), client(hub))
    model = hub.model("dinox/tiny-ct")
    assert model.tags == {"v1.0": model.refs["main"]}
    release.files["README.md"].write_text(CARD + "More.\n")
    with pytest.raises(ValueError, match=r"tag v1\.0.*found it at commit.*choose another --tag"):
        push(release, PushOptions(tag="v1.0"), client(hub))


def test_a_pull_request_is_proposed_once_and_gone_on_with(hub, release):
    push(release, PushOptions(is_public=True), client(hub))
    before = contents(release)
    release.files["README.md"].write_text(CARD + "Better.\n")
    first = push(release, PushOptions(as_pull_request=True), client(hub, OTHER))
    release.files["README.md"].write_text(CARD + "Better still.\n")
    # Whoever may only read proposes; more commits on the proposal need the right to write.
    second = push(release, PushOptions(as_pull_request=True), client(hub))
    model = hub.model("dinox/tiny-ct")
    assert model.pulls == ["Tiny, run 1"] and first.url == second.url == f"{hub.url}/dinox/tiny-ct/discussions/1"
    assert model.files() == before and model.files("refs/pr/1")["README.md"].endswith(b"Better still.\n")


def test_without_a_token_nothing_is_asked_of_the_hub(hub, release, monkeypatch):
    monkeypatch.setattr(push_module, "get_token", lambda: None)
    with pytest.raises(ValueError, match=r"found none.*hf auth login.*HF_TOKEN"):
        push(release, PushOptions(), HfApi(endpoint=hub.url, token=False))
    assert hub.requests == []


def test_a_token_that_the_hub_does_not_know_is_told_without_its_characters(hub, release):
    with pytest.raises(RuntimeError, match="Log in with a valid token") as failure:
        push(release, PushOptions(), client(hub, "hf_forged_0123456789"))
    assert "forged" not in str(failure.value)


@pytest.mark.parametrize(("token", "found"), [(READER, "role 'read'"), (OTHER, "for carla")])
def test_a_token_that_may_not_write_there_is_refused_before_anything_is_made(hub, release, token, found):
    with pytest.raises(ValueError, match=rf"{found}.*--pull-request"):
        push(release, PushOptions(), client(hub, token))
    assert hub.repositories == {}


def test_a_repository_with_other_content_is_left_alone(hub, release):
    other = dataclasses.replace(release, files={"notes.json": release.files["config.json"]})
    push(other, PushOptions(), client(hub))
    # Nothing of it says that a model of ours is there.
    with pytest.raises(ValueError, match=r"found other content: notes\.json.*left alone.*--repo"):
        push(release, PushOptions(), client(hub))
    assert set(hub.model("dinox/tiny-ct").files()) == {"notes.json"}


def test_a_public_repository_is_not_filled_by_mistake(hub, release):
    client(hub).create_repo("dinox/tiny-ct")
    with pytest.raises(ValueError, match=r"found it public.*--public"):
        push(release, PushOptions(), client(hub))
    assert hub.model("dinox/tiny-ct").files() == {}


def test_a_model_with_other_tokens_or_a_card_without_a_field_stops_everything(hub, release):
    other = Answer("AutoModel", "DINOv3ViTModel", 0.1, allowed_difference=1e-5, unmatched=())
    failed = [
        run_check("tokens", lambda: refuse_other_tokens([other])),
        run_check("card", lambda: refuse_invalid_card(release.card)),
    ]
    with pytest.raises(
        ValueError, match=r"nothing has left it(.|\n)*tokens: The exported folder(.|\n)*card: .*`pipeline"
    ):
        push(dataclasses.replace(release, checks=failed), PushOptions(), client(hub))
    assert hub.requests == []


def test_metadata_that_the_hub_refuses_is_told_and_nothing_is_visible(hub, release):
    release.files["README.md"].write_text("---\nlicense: [a, b]\n---\n")
    with pytest.raises(ValueError, match=r'"license" must be a string.*Nothing of this push is visible'):
        push(release, PushOptions(), client(hub))
    assert hub.model("dinox/tiny-ct").files() == {} and hub.model("dinox/tiny-ct").is_private


def test_a_connection_that_breaks_now_and_then_is_tried_again(hub, release):
    hub.broken_uploads, hub.broken_commits = 3, ["before"]
    push(release, PushOptions(), client(hub))
    model = hub.model("dinox/tiny-ct")
    assert model.files() == contents(release) and len(model.history) == 2


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, release):
    hub.broken_commits = ["after"]
    done = push(release, PushOptions(), client(hub))
    assert len(hub.model("dinox/tiny-ct").history) == 2 and done.num_changed == 4


def test_a_lost_answer_makes_no_second_pull_request(hub, release):
    push(release, PushOptions(), client(hub))
    release.files["README.md"].write_text(CARD + "Better.\n")
    hub.broken_commits = ["after"]
    push(release, PushOptions(as_pull_request=True), client(hub))
    assert hub.model("dinox/tiny-ct").pulls == ["Tiny, run 1"]


def test_an_upload_that_stays_broken_leaves_nothing_visible_and_goes_on_when_repeated(hub, release):
    # The pictures arrive, the weights never do.
    hub.broken_uploads = 1000
    with pytest.raises(RuntimeError, match=r"Nothing of this push is visible.*same command again"):
        push(release, PushOptions(is_public=True), client(hub))
    model = hub.model("dinox/tiny-ct")
    assert model.files() == {} and model.is_private
    arrived = set(hub.large_files)
    hub.broken_uploads = 0
    hub.requests.clear()
    push(release, PushOptions(is_public=True), client(hub))
    assert model.files() == contents(release) and not model.is_private
    sent = {request.rpartition("/")[2] for request in hub.requests if request.startswith("PUT /large/")}
    assert not sent & arrived


def test_a_hub_that_is_not_there_is_told(online, release):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RuntimeError, match=r"Expected http://127.*Connection refused"):
        push(release, PushOptions(), HfApi(endpoint=address, token=WRITER))


def test_a_push_while_offline_is_asked_for_says_how_to_allow_it(release, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE set"):
        push(release, PushOptions(), HfApi(token=WRITER))
