# The end of a Python program under test: what its last line runs, after the completion's own code. It finds `sealed`, `key_fd`, `report_fd`,
# `path` and `program` (the globals of __main__) among its globals.
#
# The tests and a secret arrive sealed (exclusive or with a key) in the program's text, the key through a descriptor: neither is readable alone,
# and the file of the program shows neither. The secret goes to report_fd, together with a second key that is read only then, when every test has
# passed. Before the tests, what the completion may have done to the interpreter is looked for; while they run, an audit hook refuses
# introspection. docs/sandbox.md says what remains possible.
c_function = [].append.__class__
meta = ().__class__.__class__
importer = __builtins__["__import__"]
if meta(importer) is not c_function or importer.__name__ != "__import__":
    raise SystemExit("not accepted: the program replaced __import__")
import posix
import sys
import _ast
import _thread
import builtins

function = meta(lambda: 0)
module = meta(sys)
FUNCTIONS = (
    "abs all any ascii bin callable chr compile delattr dir divmod eval exec format getattr globals hasattr hash hex id isinstance issubclass iter"
    " len locals max min next oct ord pow repr round setattr sorted sum vars __import__ __build_class__"
).split(" ")
TYPES = (
    "bool bytearray bytes complex dict enumerate filter float frozenset int list map object property range reversed set slice str tuple type zip"
    " super staticmethod classmethod BaseException Exception AssertionError ValueError TypeError KeyError IndexError ZeroDivisionError"
).split(" ")
JUDGING = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__", "__bool__")
LOOKING = (
    "gc.get_objects gc.get_referrers gc.get_referents sys.settrace sys.setprofile sys._current_frames sys._current_exceptions ctypes.string_at"
    " ctypes.wstring_at ctypes.addressof ctypes.PyObj_FromPtr"
).split(" ")
SCRATCH = ("/tmp", "/dev/shm", ".")
HEAP_TYPE = 1 << 9
write, leave, read_some, own_pid = posix.write, posix._exit, posix.read, posix.getpid
get_frame, own_thread = sys._getframe, _thread.get_ident
asking = set()  # threads inside the audit hook, whose own questions raise events too


def refuse(why):
    write(2, b"\nnot accepted: " + why.encode("utf-8", "replace") + b"\n")
    leave(97)


def check_builtins():
    for name in FUNCTIONS:
        value = builtins.__dict__.get(name)
        if meta(value) is not c_function or value.__name__ != name:
            refuse("the program replaced builtins." + name)
    for name in TYPES:
        value = builtins.__dict__.get(name)
        if meta(value) is not meta or value.__flags__ & HEAP_TYPE or value.__name__ != name:
            refuse("the program replaced builtins." + name)
    for owner, names in ((posix, "write _exit read getpid"), (sys, "settrace setprofile addaudithook _getframe getrecursionlimit setrecursionlimit")):
        for name in names.split(" "):
            value = owner.__dict__[name]
            if meta(value) is not c_function or value.__name__ != name:
                refuse("the program replaced " + owner.__name__ + "." + name)


def in_scratch(name):
    """Whether a path is where the program can write; the interpreter's own folder may lie below /tmp."""
    return name.startswith(SCRATCH) and not name.startswith((sys.prefix, sys.base_prefix))


def from_program(value):
    """Whether a function or a class was written in the program."""
    kind = meta(value)
    if kind is function:
        name = value.__code__.co_filename
        return value.__globals__ is program or name == path or in_scratch(name) or name == "<string>" and value.__module__ == "__main__"
    if issubclass(kind, meta):
        return meta.__dict__["__dict__"].__get__(value).get("__module__") == "__main__"
    inner = getattr(value, "__func__", None) if kind.__name__ in ("method", "staticmethod", "classmethod") else None
    return inner is not None and meta(inner) is function and from_program(inner)


def check_modules():
    for name, value in list(sys.modules.items()):
        if value is None or getattr(value, "__dict__", None) is program:
            continue
        if from_program(meta(value)) or meta(value) is function:
            refuse("the program put something of its own into sys.modules as " + name)
        for key, item in list(getattr(value, "__dict__", {}).items()):
            if from_program(item):
                refuse("the program replaced " + name + "." + key)
    for finder in list(sys.meta_path) + list(sys.path_hooks):
        if from_program(finder) or from_program(meta(finder)):
            refuse("the program changed how modules are found")
    sys.path[:] = [entry for entry in sys.path if entry and not in_scratch(entry)]


def judges_itself(value, known, depth=0):
    """Whether a value, or something in it, has a comparison that the program wrote, and is none of the classes that the tests name."""
    kind = meta(value)
    if kind in (int, float, str, bool, bytes, meta(None)):
        return False
    if kind in (list, tuple, set, frozenset, dict):
        items = value.items() if kind is dict else value
        return depth < 20 and any(judges_itself(item, known, depth + 1) for item in items)
    for base in meta.__dict__["__mro__"].__get__(kind):
        if base in known:
            return False
        for name in JUDGING:
            if from_program(meta.__dict__["__dict__"].__get__(base).get(name)):
                return True
    return False


def make_compare(known):
    def compare(left, op, right):
        if op not in ("Is", "IsNot"):
            mine = judges_itself(left, known), judges_itself(right, known)
            if mine[0] != mine[1] and not (op == "NotEq" and (left is None or right is None)):
                raise AssertionError("the result's own comparison would decide the test")
        if op == "Eq":
            return left == right
        if op == "NotEq":
            return left != right
        if op == "Lt":
            return left < right
        if op == "LtE":
            return left <= right
        if op == "Gt":
            return left > right
        if op == "GtE":
            return left >= right
        if op == "Is":
            return left is right
        if op == "IsNot":
            return left is not right
        return (left in right) is (op == "In")

    def truth(value):
        if judges_itself(value, known):
            raise AssertionError("the result's own truth value would decide the test")
        return value

    return compare, truth


def walk(node, visit):
    visit(node)
    for field in node._fields:
        value = getattr(node, field, None)
        for item in value if meta(value) is list else (value,):
            if isinstance(item, _ast.AST):
                walk(item, visit)


def names_of(tree):
    loaded, stored, owners = set(), set(), set()

    def visit(node):
        kind = meta(node)
        if kind is _ast.Name:
            (loaded if meta(node.ctx) is _ast.Load else stored).add(node.id)
        elif kind in (_ast.FunctionDef, _ast.AsyncFunctionDef, _ast.ClassDef):
            stored.add(node.name)
        elif kind is _ast.alias:
            stored.add((node.asname or node.name).split(".")[0])
        elif kind is _ast.arg:
            stored.add(node.arg)
        elif kind is _ast.Attribute and meta(node.value) is _ast.Name:
            owners.add(node.value.id)

    walk(tree, visit)
    return loaded, stored, owners


def placed(node, old):
    for name in ("lineno", "col_offset", "end_lineno", "end_col_offset"):
        setattr(node, name, getattr(old, name, 0))
    return node


def load(name, old):
    return placed(_ast.Name(name, _ast.Load()), old)


def harden(node, shadowed):
    """The same tests, with comparisons and truth values that a result's own methods cannot decide, and with the real builtins."""
    for field in node._fields:
        value = getattr(node, field, None)
        if meta(value) is list:
            value[:] = [harden(item, shadowed) if isinstance(item, _ast.AST) else item for item in value]
        elif isinstance(value, _ast.AST):
            setattr(node, field, harden(value, shadowed))
    kind = meta(node)
    if kind is _ast.Compare and len(node.ops) == 1:
        op = placed(_ast.Constant(meta(node.ops[0]).__name__), node)
        return placed(_ast.Call(load("<compare>", node), [node.left, op, node.comparators[0]], []), node)
    if kind is _ast.Assert:
        judged = placed(_ast.Call(load("<truth>", node), [node.test], []), node)
        raised = placed(_ast.Raise(placed(_ast.Call(load("<failed>", node), [node.msg] if node.msg else [], []), node), None), node)
        return placed(_ast.If(placed(_ast.UnaryOp(_ast.Not(), judged), node), [raised], []), node)
    if kind is _ast.Name and node.id in shadowed and meta(node.ctx) is _ast.Load:
        node.id = "<" + node.id + ">"
    return node


def prepare(tests):
    tree = compile(tests, "<tests>", "exec", 0x400, True)  # PyCF_ONLY_AST
    loaded, stored, owners = names_of(tree)
    known_modules = getattr(sys, "stdlib_module_names", ())
    for name in owners - stored:
        value = program.get(name)
        if name in known_modules and (from_program(value) or from_program(meta(value))):
            refuse("the program made a " + name + " of its own")
    # A builtin that the program has another meaning for: the tests get the real one, unless it is what they test.
    of_program = {name for name in loaded - stored if name in program}
    shadowed = {name for name in of_program if name in FUNCTIONS + TYPES and program[name] is not builtins.__dict__[name]}
    if shadowed == of_program:
        shadowed = set()
    known = [program[name] for name in of_program if isinstance(program[name], meta)]
    program["<compare>"], program["<truth>"] = make_compare(known)
    program["<failed>"] = AssertionError
    for name in shadowed:
        program["<" + name + ">"] = builtins.__dict__[name]
    return compile(harden(tree, shadowed), "<tests>", "exec", 0, True, 0)  # asserts stay, whatever -O says


def read_key(size):
    key = b""
    while len(key) < size:
        more = read_some(key_fd, size - len(key))
        if not more:
            refuse("the program read what is not its own")
        key += more
    return key


def audit(event, arguments):
    thread = own_thread()
    if thread in asking:
        return
    asking.add(thread)
    try:
        judge_event(event, arguments)
    finally:
        asking.discard(thread)


def asked_by_program(frame, direct):
    """Whether code of the program asks: by itself, or (unless direct) through whatever it called."""
    while frame is not None and frame.f_code.co_filename not in ("<tests>", "<end>"):
        name = frame.f_code.co_filename
        if name == path or frame.f_globals is program:
            return True
        if direct and not name.endswith("inspect.py"):
            return False
        frame = frame.f_back
    return False


def judge_event(event, arguments):
    if event in LOOKING and asked_by_program(get_frame(2), False):  # above audit: who asks
        refuse("the program used " + event + " while it was tested")
    if event == "sys._getframe" or event == "object.__getattr__" and arguments[1] in ("tb_frame", "gi_frame", "cr_frame", "ag_frame"):
        if asked_by_program(get_frame(2), True):
            refuse("the program looked at the frames of its tests")


def show_failure(tests):
    """Which test failed, for people: the hone side keeps it, no program reads it."""
    trace = sys.exc_info()[2]
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    if line:
        text = tests.split("\n")[line - 1].strip()[:200]
        write(2, ("\ntest failed, line %d: %s\n" % (line, text)).encode("utf-8", "replace"))


def finish():
    check_modules()
    plain = (int.from_bytes(read_key(len(sealed)), "big") ^ int.from_bytes(sealed, "big")).to_bytes(len(sealed), "big")
    secret, tests = plain[:32], plain[32:].decode("utf-8")
    program["__builtins__"] = builtins
    pid = own_pid()
    depth = sys.getrecursionlimit()
    sys.setrecursionlimit(max(depth, 10000))  # long sums in the tests are deep trees
    code = prepare(tests)
    sys.setrecursionlimit(depth)
    sys.addaudithook(audit)
    try:
        exec(code, program)
    except Exception:
        show_failure(tests)
        raise
    if own_pid() != pid:
        refuse("the program went on in another process")
    write(report_fd, secret + read_key(32))


sys.settrace(None)
sys.setprofile(None)
check_builtins()
finish()
