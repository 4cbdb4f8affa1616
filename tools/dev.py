"""Every chore of this project: `python tools/dev.py COMMAND [ARGUMENTS]`, or `make COMMAND`.

Needs Python 3.11 or newer and nothing else. Environments are made under .venv-dev/, with uv where it is on the PATH and
with venv and pip elsewhere; they are installed again when pyproject.toml changes; an active environment is left alone.

The syntax is so plain (no f-strings, no annotations) that Python 2.7 still parses this file and says what is missing.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SUPPORTED = ("3.13", "3.12", "3.11")
HERE = "%d.%d" % sys.version_info[:2]
WINDOWS = os.name == "nt"
# What would lead the children out of the environment that this script makes for them.
FOREIGN = ["VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX"]
FOREIGN += ["PIP_REQUIRE_VIRTUALENV", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT"]

# ======== Running things


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run(*command, **options):
    """Run a command in the checkout (or in `cwd`), away from any active environment. Its failure ends this script."""
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    try:
        code = subprocess.call(list(command), cwd=options.get("cwd", ROOT), env=env)
    except OSError as error:
        sys.exit("cannot run {}: {}".format(command[0], error))
    if code:
        sys.exit(code)


def probe(*command):
    """What this Python says of itself, (path, version), or None. Version managers leave shims that exist and fail."""
    code = "import sys, ssl; print(sys.executable); print('%d.%d' % sys.version_info[:2])"
    pipe = subprocess.PIPE
    try:
        child = subprocess.Popen(
            list(command) + ["-c", code], stdin=pipe, stdout=pipe, stderr=pipe, universal_newlines=True
        )
        lines = child.communicate()[0].splitlines()
    except OSError:
        return None
    return (lines[0], lines[1]) if child.returncode == 0 and len(lines) == 2 else None


def other_pythons():
    """{version: path} of the supported Pythons, other than this one, that are installed here and work."""
    found = {}
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for version in SUPPORTED:
        names = [["python" + version]] + ([["py", "-" + version]] if WINDOWS else [])
        managed = glob.glob(os.path.join(pyenv, "versions", version + ".*", "bin", "python"))
        names += [[path] for path in managed]
        working = [python for python in (probe(*name) for name in names) if python and python[1] == version]
        if working and version != HERE:
            found[version] = working[0][0]
    return found


# ======== Environments


def has_venv(python):
    return subprocess.call([python, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL) == 0


def create(path, python):
    """A new, empty virtual environment; the path of its Python."""
    shutil.rmtree(path, ignore_errors=True)
    if shutil.which("uv"):
        run("uv", "venv", "--quiet", "--python", python, path)
    elif not has_venv(python):
        say(python + " cannot make virtual environments: it has no ensurepip or no venv.")
        sys.exit("On Debian and Ubuntu: apt install python3-venv. Or, anywhere, put uv on the PATH.")
    else:
        run(python, "-m", "venv", path)
    return python_in(path)


def python_in(path):
    return os.path.join(path, "Scripts", "python.exe") if WINDOWS else os.path.join(path, "bin", "python")


def install(python, *requirements):
    if shutil.which("uv"):
        run("uv", "pip", "install", "--quiet", "--python", python, *requirements)
    else:
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)


def environment(extras, name=None, base=None, pins=()):
    """The Python of .venv-dev/NAME, with this checkout and these extras installed; made or mended if need be."""
    name = name or "py" + HERE
    path = os.path.join(ROOT, ".venv-dev", name)
    stamp = os.path.join(path, "installed.json")
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        key = hashlib.sha256(file.read() + repr((ROOT, pins)).encode()).hexdigest()
    python, installed = python_in(path), {}
    if os.path.exists(stamp) and os.path.exists(python):
        with open(stamp) as file:
            installed = json.load(file)
        if installed["key"] == key and set(extras) <= set(installed["extras"]):
            return python
    wanted = sorted(set(extras) | set(installed.get("extras", [])))
    say("[dev] installing gradxform[{}] into {}; a first time takes minutes".format(",".join(wanted), path))
    if not installed:
        create(path, base or sys.executable)
    else:
        os.remove(stamp)
    install(python, "--editable", "{}[{}]".format(ROOT, ",".join(wanted)), *pins)
    with open(stamp, "w") as file:
        json.dump({"key": key, "extras": wanted}, file)
    return python


def project():
    import tomllib

    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return tomllib.load(file)["project"]


# ======== Commands. The first line of a docstring is its line in `help`.


def demo(arguments):
    """show eight steps of Adam, then train a small language model"""
    python = environment(["examples"])
    run(python, os.path.join("examples", "adam_by_hand.py"))
    print("\n\nNow a language model.\n", flush=True)
    run(python, os.path.join("examples", "train_lm.py"), *arguments)


def test(arguments):
    """run all tests; arguments go to pytest; GRADXFORM_JOBS=N sets the number of processes"""
    pytest(environment(["test"]), arguments)


def test_fast(arguments):
    """run the tests that are not marked slow"""
    test(["-m", "not slow"] + arguments)


def pytest(python, arguments):
    jobs = os.environ.get("GRADXFORM_JOBS") or str(min(2, os.cpu_count() or 1))
    run(python, "-m", "pytest", *(([] if jobs == "1" else ["-n", jobs]) + arguments))


def lint(arguments):
    """check style: ruff check and ruff format --check"""
    python = environment(["dev"])
    run(python, "-m", "ruff", "check", *arguments)
    run(python, "-m", "ruff", "format", "--check", *arguments)


def format_(arguments):
    """mend what ruff can mend, and format"""
    python = environment(["dev"])
    run(python, "-m", "ruff", "check", "--fix", "--exit-zero", *arguments)
    run(python, "-m", "ruff", "format", *arguments)


def types(arguments):
    """check types with pyright"""
    python = environment(["dev", "test"])
    run(python, "-m", "pyright", "--pythonpath", python, *arguments)


def docs(arguments):
    """build the documentation; a warning is an error"""
    python = environment(["docs", "plot", "testing"])  # pages import what they describe, and draw it
    run(python, "-m", "sphinx", "-W", "--keep-going", "-b", "dirhtml", "docs", "docs/_build", *arguments)


def bench(arguments):
    """measure speed beside Optax, torch and the machine's limit; arguments go to `python -m benchmarks`"""
    run(environment(["test"]), "-m", "benchmarks", *arguments)


def readme(arguments):
    """run the runnable code blocks of README.md and docs/, against this checkout"""
    run(environment(["examples"]), os.path.join("tools", "readme.py"), *(arguments or pages()))


def pages():
    found = glob.glob(os.path.join(ROOT, "docs", "**", "*.md"), recursive=True)
    return [os.path.join(ROOT, "README.md")] + sorted(page for page in found if "_build" not in page)


def build(arguments):
    """build the wheel and the source archive into dist/"""
    python = environment(["dev"])
    for old in glob.glob(os.path.join(ROOT, "dist", "gradxform-*")):
        os.remove(old)
    run(python, "-m", "build", *arguments)


def check_wheel(arguments):
    """install the wheel from dist/ outside the checkout, run the README from it and the tests of examples/skeleton"""
    from tempfile import TemporaryDirectory

    (wheel,) = glob.glob(os.path.join(ROOT, "dist", "gradxform-*.whl"))
    with TemporaryDirectory(ignore_cleanup_errors=True) as elsewhere:
        python = create(os.path.join(elsewhere, "venv"), sys.executable)
        install(python, wheel)  # first alone: what it imports, it must declare
        run(
            python, "-I", "-c", "import gradxform; print('[dev] imported', gradxform.__file__)", cwd=elsewhere
        )
        install(python, wheel + "[checkpoint,cli,examples,testing]")
        run(python, "-I", "-m", "gradxform", "--version", cwd=elsewhere)
        run(python, "-I", os.path.join(ROOT, "tools", "readme.py"), *(arguments or pages()), cwd=elsewhere)
        # A package of somebody's, as its author would install and test it.
        skeleton = os.path.join(elsewhere, "skeleton")
        shutil.copytree(os.path.join(ROOT, "examples", "skeleton"), skeleton)
        install(python, skeleton + "[test]")
        run(python, "-I", "-m", "pytest", "-q", "tests", cwd=skeleton)


def laws_elsewhere(arguments):
    """run laws, interop and Optax's own tests on the newest other supported Python that works here"""
    for version, base in other_pythons().items():
        if shutil.which("uv") or has_venv(base):
            python = environment(["test"], name="py" + version, base=base)
            pytest(python, ["-m", "(laws or interop) and not slow or optax_suite"] + arguments)
            return "on Python " + version
    return "skipped: no other Python of {} works here".format(", ".join(SUPPORTED))


def laws_lowest(arguments):
    """run laws and interop with the lowest dependencies that pyproject.toml states"""
    pins = tuple(re.sub(">=", "==", requirement) for requirement in project()["dependencies"])
    python = environment(["test"], name="lowest", pins=pins)
    os.environ["GRADXFORM_COMPILER"] = "default"  # the whole suite runs on XLA's older, quicker one
    pytest(python, ["-m", "(laws or interop) and not slow"] + arguments)
    return " ".join(pins)


def check_torch(arguments):
    """install torch beside, and hold runs that move to it and from it against its own; arguments go to pytest"""
    os.environ["GRADXFORM_TORCH"] = environment(["bench"], name="torch")
    files = [os.path.join("tests", "interop", "test_torch_live.py")]
    files += [os.path.join("tests", "examples", "test_torch_export.py")]
    pytest(environment(["test"]), files + arguments)


def make_test(arguments):
    """As the README says it."""
    run(*(["make", "test"] if shutil.which("make") else [sys.executable, __file__, "test"]))


def make_demo(arguments):
    run(*(["make", "demo"] if shutil.which("make") else [sys.executable, __file__, "demo"]))


CI = [lint, types, docs, make_test, laws_lowest, laws_elsewhere, build, check_wheel, make_demo]


def ci(arguments):
    """do all that must hold before a change lands; stop at the first failure"""
    report, failed = [], 0
    for step in CI:
        say("\n[dev] ======== {} ========".format(step.__name__))
        start = time.time()
        try:
            note = step([]) or ""
        except SystemExit as stop:
            note, failed = "FAILED ({})".format(stop.code), 1
        report.append("  {:<15} {:>5.0f} s  {}".format(step.__name__, time.time() - start, note))
        if failed:
            break
    report += ["  {:<15}     not run".format(step.__name__) for step in CI[len(report) :]]
    say("\n[dev] Python {}; steps:\n{}".format(sys.version.split()[0], "\n".join(report)))
    ran = [line for line in report if "not run" not in line and "skipped:" not in line]
    say("{} passed, {} failed, {} skipped".format(len(ran) - failed, failed, len(CI) - len(ran)))
    return failed


def release(arguments):
    """build a release, check it, and print how to upload it"""
    version = project()["version"]
    with open(os.path.join(ROOT, "CHANGELOG.md"), encoding="utf-8") as file:
        if not re.search(r"(?m)^## {}\b".format(re.escape(version)), file.read()):
            sys.exit("CHANGELOG.md has no section '## {}' for what is unreleased now".format(version))
    build([])
    check_wheel([])
    say("\n[dev] gradxform {} is built and checked. To publish it:".format(version))
    say("  git tag v{0} && git push origin v{0}".format(version))
    say("  python -m pip install twine && python -m twine upload dist/gradxform-{}*".format(version))


def help_(arguments):
    """print this"""
    say(__doc__.split("\n\n")[0] + "\n")
    for name, command in COMMANDS.items():
        say("  {:<15} {}".format(name, command.__doc__))


LISTED = [demo, test, test_fast, lint, format_, types, docs, readme, bench, ci]
LISTED += [build, check_wheel, laws_lowest, laws_elsewhere, check_torch, release, help_]
COMMANDS = {function.__name__.strip("_").replace("_", "-"): function for function in LISTED}


def main():
    if sys.version_info < (3, 11):
        for python in other_pythons().values():
            return run(python, os.path.abspath(__file__), *sys.argv[1:])
        sys.exit(
            "gradxform needs Python 3.11 or newer, and none is on the PATH. This is " + sys.version.split()[0]
        )
    name = sys.argv[1] if len(sys.argv) > 1 else "help"
    if name not in COMMANDS:
        sys.exit("unknown command {!r}; one of: {}".format(name, ", ".join(COMMANDS)))
    outcome = COMMANDS[name](sys.argv[2:])
    if isinstance(outcome, str):
        say(outcome)
    sys.exit(outcome == 1)


if __name__ == "__main__":
    main()
