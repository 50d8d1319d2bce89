import base64
from pathlib import Path

import msgspec
import pytest

from domain.core.errors import Invalid
from testhide.adapters import model_policy
from testhide.cli.processes import forget_admin_password, run_process
from testhide.operator_errors import Fault
from testhide.settings import Settings, from_environment, load_settings, own_secret_key, save_settings

KEY = bytes(range(32))
COMPLETE = {
    "TESTHIDE_DATABASE_URL": "postgresql://u:hush@db/x",
    "TESTHIDE_REDIS_URL": "redis://:hush@cache/0",
    "TESTHIDE_SECRET_KEY": base64.b64encode(KEY).decode(),
}


def test_everything_from_the_environment() -> None:
    settings = from_environment(
        {
            **COMPLETE,
            "TESTHIDE_HOST": "::",
            "TESTHIDE_PORT": "8080",
            "TESTHIDE_DATA": "/srv/data",
            "TESTHIDE_BLOBS_URL": "s3://bucket/ci",
        }
    )
    assert settings.secret_key == KEY
    assert (settings.host, settings.port, settings.blobs) == ("::", 8080, "s3://bucket/ci")
    assert msgspec.structs.replace(settings, blobs_url="").blobs == "file:///srv/data/blobs"
    assert settings.public_url == "http://[::1]:8080"


def test_no_secret_in_what_is_printed() -> None:
    settings = from_environment({**COMPLETE, "TESTHIDE_ADMIN_PASSWORD": "hush"})
    assert "hush" not in repr(settings)
    assert str(KEY) not in repr(settings)


@pytest.mark.parametrize(
    "text", [KEY.hex(), base64.b64encode(KEY).decode(), base64.urlsafe_b64encode(b"\xff" * 32).decode()]
)
def test_key_spellings(text: str) -> None:
    assert len(from_environment({**COMPLETE, "TESTHIDE_SECRET_KEY": text}).secret_key) == 32


def test_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://from-file\n")
    environ = {**COMPLETE, "TESTHIDE_DATABASE_URL": "", "TESTHIDE_DATABASE_URL_FILE": str(tmp_path / "url")}
    assert from_environment(environ).database_url == "postgresql://from-file"
    with pytest.raises(Fault, match="keep one"):
        from_environment({**environ, "TESTHIDE_DATABASE_URL": "x"})
    with pytest.raises(Fault, match="cannot be read"):
        from_environment({**environ, "TESTHIDE_DATABASE_URL_FILE": str(tmp_path / "absent")})


def test_keys_from_commands() -> None:
    environ = {**COMPLETE, "TESTHIDE_OLD_SECRET_KEY_COMMAND": f"printf '%s\\n' {KEY.hex()}"}
    settings = from_environment(environ)
    assert settings.old_secret_key == KEY
    assert settings.secret_keys == [settings.secret_key, KEY]
    with pytest.raises(Fault, match="keep one"):
        from_environment({**COMPLETE, "TESTHIDE_SECRET_KEY_COMMAND": "true"})
    for command, reason in (
        ("false", "it ended with 1"),
        ("ls /absent", "it ended with 2: .*/absent"),
        ("/absent", "/absent"),
        ("printf '", "No closing quotation"),
    ):
        with pytest.raises(Fault, match=f"TESTHIDE_OLD_SECRET_KEY_COMMAND gives no key: .*{reason}"):
            from_environment({**environ, "TESTHIDE_OLD_SECRET_KEY_COMMAND": command})
    with pytest.raises(Fault, match="must be 32 bytes") as refused:
        from_environment({**environ, "TESTHIDE_OLD_SECRET_KEY_COMMAND": "echo hush"})
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("name", ["TESTHIDE_DATABASE_URL", "TESTHIDE_SECRET_KEY"])
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(Fault, match=name):
        from_environment({**COMPLETE, name: ""})


@pytest.mark.parametrize("verb", ["serve", "work"])
def test_only_who_uses_redis_needs_its_url(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**COMPLETE, "TESTHIDE_REDIS_URL": ""}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Fault, match="TESTHIDE_REDIS_URL is not set"):
        run_process(verb)
    assert load_settings().redis_url == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "0"), ("PORT", "65536"), ("PORT", "²"), ("PORT", "-1"), ("CONNECTIONS_PER_ADDRESS", "0")],
)
def test_numbers_out_of_range(name: str, value: str) -> None:
    with pytest.raises(Fault, match=f"TESTHIDE_{name} must be a number"):
        from_environment({**COMPLETE, f"TESTHIDE_{name}": value})


@pytest.mark.parametrize("origins", ["*", "dash.example.com", "https://dash.example.com/", "https://DASH.example.com"])
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(Fault, match="TESTHIDE_CORS_ORIGINS must be origins like https://dash"):
        from_environment({**COMPLETE, "TESTHIDE_CORS_ORIGINS": f"https://a.example, {origins}"})
    given = {**COMPLETE, "TESTHIDE_CORS_ORIGINS": "https://a.example, http://127.0.0.1:3000"}
    assert from_environment(given).origins == ["https://a.example", "http://127.0.0.1:3000"]


def test_settings_file_round_trip(tmp_path: Path) -> None:
    settings = Settings(database_url="d", redis_url="r", secret_key=KEY, data_dir="/x", blobs_url="s3://a")
    file = tmp_path / "settings.json"
    save_settings(settings, file)
    assert file.stat().st_mode & 0o077 == 0
    assert load_settings({"TESTHIDE_SETTINGS": str(file)}) == settings
    file.write_text("{")
    with pytest.raises(Fault, match="cannot be read"):
        load_settings({"TESTHIDE_SETTINGS": str(file)})


def test_own_key_is_made_once(tmp_path: Path) -> None:
    key = own_secret_key(tmp_path, is_new=True)
    assert own_secret_key(tmp_path, is_new=False) == key
    assert (tmp_path / "secret.key").stat().st_mode & 0o077 == 0


def test_a_lost_key_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"secret\.key is gone, but the database that it belongs to is there"):
        own_secret_key(tmp_path, is_new=False)
    assert not (tmp_path / "secret.key").exists()


def test_the_first_admins_password_is_kept_no_longer_than_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        database_url="d", redis_url="r", secret_key=bytes(32), data_dir=str(tmp_path), admin_password="once"
    )
    file = tmp_path / "settings.json"
    save_settings(settings, file)
    monkeypatch.setenv("TESTHIDE_SETTINGS", str(file))
    forget_admin_password(settings)
    assert b"once" not in file.read_bytes()
    assert load_settings({"TESTHIDE_SETTINGS": str(file)}).secret_key == bytes(32)


def test_checkpoints_go_to_a_folder_whatever_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = from_environment({**COMPLETE, "TESTHIDE_CHECKPOINTS_TO": "kept"})
    assert settings.checkpoints_to == str(tmp_path / "kept")
    assert from_environment(COMPLETE).checkpoints_to == ""


def test_a_mail_server_needs_a_sender() -> None:
    mail = {"TESTHIDE_SMTP_URL": "smtps://ci:hush@mail.example.com", "TESTHIDE_MAIL_FROM": "ci@example.com"}
    settings = from_environment({**COMPLETE, **mail})
    assert (settings.smtp_url, settings.mail_from) == tuple(mail.values())
    assert "hush" not in repr(settings)
    for name, wrong in (("MAIL_FROM", ""), ("MAIL_FROM", "ci"), ("SMTP_URL", ""), ("SMTP_URL", "ci:hush@example.com")):
        with pytest.raises(Fault, match=f"TESTHIDE_{name} must be ") as refused:
            from_environment({**COMPLETE, **mail, f"TESTHIDE_{name}": wrong})
        assert "hush" not in str(refused.value)


def test_networks_that_webhooks_may_call() -> None:
    opened = {**COMPLETE, "TESTHIDE_OUTGOING_ALLOW": "127.0.0.0/8, fd00::/8"}
    assert from_environment(opened).outgoing_allow == "127.0.0.0/8, fd00::/8"
    for wrong in ("localhost", "10.0.0.1/8", "10.0.0.0/40"):
        with pytest.raises(Fault, match="TESTHIDE_OUTGOING_ALLOW must be networks"):
            from_environment({**COMPLETE, "TESTHIDE_OUTGOING_ALLOW": wrong})


MODEL = {**COMPLETE, "TESTHIDE_AI_PROVIDER": "openai", "TESTHIDE_AI_MODEL": "gpt-4o", "TESTHIDE_AI_KEY": "hush"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PROVIDER": "claude"}, "AI_PROVIDER must be builtin or openai, not 'claude'"),
        ({"MODEL": ""}, "AI_MODEL is not set: TESTHIDE_AI_PROVIDER=openai needs the name of a model"),
        ({"MODELS": "good, b\x00d"}, "AI_MODEL and TESTHIDE_AI_MODELS must be names of models, not 'b"),
        ({"KEY": ""}, "AI_KEY is not set"),
        ({"URL": "llm.example.com"}, "AI_URL must be a URL like"),
        ({"URL": "https://me:hush@llm.example.com/v1"}, "AI_URL must be a URL like"),
        ({"URL": "https://llm.example.com:port/v1"}, "AI_URL must be a URL like"),
        ({"URL": "http://llm.example.com/v1"}, "AI_URL must begin with https://, or the API key would be sent"),
        ({"MONTHLY_TOKENS": "0"}, "AI_MONTHLY_TOKENS must be a number from 1"),
        ({"TIMEOUT": "0"}, "AI_TIMEOUT must be a number from 1"),
    ],
)
def test_settings_of_a_model_that_do_not_fit_are_refused(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(Fault, match=f"TESTHIDE_{reason}") as refused:
        from_environment(MODEL | {f"TESTHIDE_AI_{name}": value for name, value in changes.items()})
    assert "hush" not in str(refused.value)


def test_settings_of_a_model() -> None:
    assert model_policy(from_environment(COMPLETE)).choose(None) == "builtin"
    settings = from_environment(MODEL | {"TESTHIDE_AI_MODELS": "gpt-4o-mini, o5"})
    policy = model_policy(settings)
    assert (policy.provider, policy.monthly_tokens, settings.ai_timeout) == ("openai", 1_000_000, 60)
    assert [policy.choose(wanted) for wanted in (None, "gpt-4o", "o5")] == ["gpt-4o", "gpt-4o", "o5"]
    with pytest.raises(Invalid, match="is not one of the models that the operator allows: gpt-4o, gpt-4o-mini, o5"):
        policy.choose("other")
    here = {"TESTHIDE_AI_URL": "http://127.0.0.1:8080/v1"}
    assert from_environment(MODEL | here).ai_key == "hush"
    assert from_environment(MODEL | {"TESTHIDE_AI_KEY": "", "TESTHIDE_AI_URL": "http://llm:8080/v1"}).ai_key == ""
