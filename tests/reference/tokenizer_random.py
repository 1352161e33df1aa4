"""Compares the engine with Hugging Face tokenizers on random tokenizer.json files: every model with
random normalizers, pre-tokenizers, post-processors, decoders and added tokens.

    python tokenizer_random.py --probe BUILD/tests/tokenizer/tokenizer_probe \
        [--shared SHARED_DATA] [--files 400] [--strings 300] [--seed 1]

Prints what differs, and how many files the engine refuses; exits with 1 if anything differs.
"""

import argparse
import base64
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

import tokenizer_cases as cases
from tokenizer_strings import Strings, differing_characters

BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
PATTERNS = [{"String": " "}, {"String": "ab"}, {"String": "▁"}, {"Regex": r"\s+"},
            {"Regex": r"\p{L}+|\p{N}"}, {"Regex": r"[^\s\w]"}, {"Regex": r"(?=[A-Z])"},
            {"Regex": r"\d{1,3}"}, {"Regex": "'s|'t| ?\\p{L}+"}]


class Builder:
    def __init__(self, rng, charsmap):
        self.rng = rng
        self.charsmap = charsmap

    def flag(self):
        return self.rng.random() < 0.5

    def sequence(self, make, key, most):
        kind = self.rng.random()
        if kind < 0.2:
            return None
        if kind < 0.6:
            return make()
        return {"type": "Sequence", key: [make() for _ in range(self.rng.randint(1, most))]}

    def normalizer(self):
        rng, flag = self.rng, self.flag
        return rng.choice([
            {"type": rng.choice(["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"])},
            {"type": "Strip", "strip_left": flag(), "strip_right": flag()},
            {"type": "Prepend", "prepend": rng.choice(["▁", " ", "xé"])},
            # Not what matches nothing: the library then inserts in another place.
            {"type": "Replace", "pattern": rng.choice([p for p in PATTERNS if "(?=" not in str(p)]),
             "content": rng.choice(["", " ", "▁", "é-", "$1"])},
            {"type": "BertNormalizer", "clean_text": flag(), "handle_chinese_chars": flag(),
             "strip_accents": rng.choice([None, True, False]), "lowercase": flag()},
            {"type": "Precompiled", "precompiled_charsmap": self.charsmap} if self.charsmap
            else {"type": "NFKC"},
        ])

    def metaspace(self):
        scheme = self.rng.choice(["always", "first", "never"])
        return {"type": "Metaspace", "replacement": self.rng.choice(["▁", "▁", "_"]),
                "prepend_scheme": scheme, "split": self.flag()}

    def pre_tokenizer(self):
        rng, flag = self.rng, self.flag
        return rng.choice([
            {"type": "Split", "pattern": rng.choice(PATTERNS), "behavior": rng.choice(BEHAVIORS),
             "invert": flag()},
            {"type": "Digits", "individual_digits": flag()},
            {"type": "Punctuation", "behavior": rng.choice(BEHAVIORS)},
            {"type": rng.choice(["Whitespace", "WhitespaceSplit", "BertPreTokenizer"])},
            {"type": "CharDelimiterSplit", "delimiter": rng.choice("|a ▁")},
            {"type": "FixedLength", "length": rng.randint(1, 6)},
            self.metaspace(),
            {"type": "ByteLevel", "add_prefix_space": flag(), "trim_offsets": flag(),
             "use_regex": flag()},
        ])

    def post_processor(self, tokens):
        rng = self.rng
        special = lambda: {"SpecialToken": {"id": rng.choice(list(tokens)), "type_id": 0}}
        template = {"type": "TemplateProcessing",
                    "single": [special() for _ in range(rng.randint(0, 2))]
                    + [{"Sequence": {"id": "A", "type_id": 0}}]
                    + [special() for _ in range(rng.randint(0, 2))],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                             {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]}
                                       for t, i in tokens.items()}}
        pair = lambda: list(rng.choice(list(tokens.items())))
        return rng.choice([
            template, {"type": "BertProcessing", "sep": pair(), "cls": pair()},
            {"type": "RobertaProcessing", "sep": pair(), "cls": pair(),
             "trim_offsets": self.flag(), "add_prefix_space": self.flag()},
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
             "use_regex": True}])

    def decoder(self):
        rng = self.rng
        metaspace = self.metaspace()
        return rng.choice([
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            {"type": "ByteFallback"}, {"type": "Fuse"}, metaspace,
            {"type": "Replace", "pattern": rng.choice(PATTERNS),
             "content": rng.choice(["", " ", "▁"])},
            {"type": "Strip", "content": rng.choice(" a▁"), "start": rng.randint(0, 2),
             "stop": rng.randint(0, 2)},
            {"type": "WordPiece", "prefix": rng.choice(["##", "a"]), "cleanup": self.flag()}])

    def added_tokens(self, size):
        contents = ["<s>", "</s>", "[MASK]", "word", "é", "  ", "aa", "<|im", "Hello", "e\u0301",
                    "\n", " the", "▁", "A", "I", "\u212b"]
        self.rng.shuffle(contents)
        tokens = []
        for content in contents[: self.rng.randint(1, 7)]:
            special = self.flag()
            # A normalized special token is not always recognised again by the library itself.
            tokens.append({"id": size + len(tokens), "content": content, "single_word": self.flag(),
                           "lstrip": self.rng.random() < 0.3, "rstrip": self.rng.random() < 0.3,
                           "normalized": not special and self.flag(), "special": special})
        return tokens


def base_models(corpus):
    few = corpus[:100000]
    byte_level = cases.byte_level_model(
        900, few, cases.pre_tokenizers.ByteLevel(add_prefix_space=False))
    yield json.loads(byte_level.to_str())["model"]
    for fallback in (True, False):
        tokenizer = cases.character_model(
            few, 900, cases.EVERY_BYTE if fallback else [], byte_fallback=fallback, fuse_unk=True)
        yield json.loads(tokenizer.to_str())["model"]
    yield json.loads(cases.unigram_model(few, 900).to_str())["model"]
    yield json.loads(cases.unigram_model(few, 700, byte_fallback=True).to_str())["model"]
    for name, tokenizer in cases.character_cases(corpus[:60000]):
        if name in ("WordPiece", "WordLevel", "end_of_word_suffix", "continuing_subword_prefix"):
            yield json.loads(tokenizer.to_str())["model"]


def probe(options, arguments, data):
    result = subprocess.run([options.probe, *arguments], input=data, capture_output=True)
    return result.returncode, result.stdout, result.stderr.decode()


def reference_results(function, items):
    try:
        return [function(item) for item in items]
    except BaseException as error:  # a panic of the library is a BaseException
        return repr(error)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", required=True)
    parser.add_argument("--shared", type=pathlib.Path)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--strings", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the files that differ")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    corpus = "The quick brown fox doesn't jump over 12 lazy dogs; it's 3.14 o'clock.\n" * 50
    charsmap = None
    if options.shared:
        corpus += (options.shared / "datasets/tinyshakespeare/input.txt").read_text()[:200000]
        charsmap = base64.b64encode(cases.precompiled_charsmap(
            options.shared / "tokenizers/t5/spiece.model")).decode()
    strings = Strings(rng, corpus, differing_characters())
    noise = "".join(strings.text() + "\n" for _ in range(500)).replace("\r", "").replace("\0", "")
    builder = Builder(rng, charsmap)
    models = list(base_models(corpus[:100000] + noise))
    path = pathlib.Path(tempfile.mkdtemp()) / "tokenizer.json"
    counts = dict(files=0, refused=0, invalid=0, **{"left out": 0}, encoded=0, decoded=0, differing=0)
    refusals = {}
    for number in range(options.files):
        model = rng.choice(models)
        vocab = model["vocab"]
        size = len(vocab)
        known = {t for t in vocab} if isinstance(vocab, dict) else {t for t, _ in vocab}
        added = [t for t in builder.added_tokens(size) if t["content"] not in known]
        for index, token in enumerate(added):
            token["id"] = size + index
        ids = {t["content"]: t["id"] for t in added} or {"a": 0}
        document = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": builder.sequence(builder.normalizer, "normalizers", 3),
            "pre_tokenizer": builder.sequence(builder.pre_tokenizer, "pretokenizers", 3),
            "post_processor": builder.sequence(
                lambda: builder.post_processor(ids), "processors", 2),
            "decoder": builder.sequence(builder.decoder, "decoders", 4), "model": model}
        path.write_text(json.dumps(document, ensure_ascii=False))
        try:
            reference = Tokenizer.from_file(str(path))
        except Exception:
            counts["invalid"] += 1
            continue
        # Of two tokens with one normal form the library takes now this one, now that one. And it puts
        # a Metaspace before every piece made of the first character of the text, where that has become
        # several, or of a space put in front.
        normal = [reference.normalizer.normalize_str(t["content"]) if reference.normalizer
                  else t["content"] for t in added if t["normalized"]]
        steps = json.dumps([document["normalizer"], document["pre_tokenizer"]])
        late = '"prepend_scheme": "first"' in steps and (
            '"ByteLevel"' in steps or document["normalizer"] and '"pretokenizers"' in steps)
        others = [t["content"] for t in added if not t["normalized"]]
        if len(set(normal + others)) < len(normal + others) or late:
            counts["left out"] += 1
            continue
        texts = [strings.text() for _ in range(options.strings)]
        data = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
        code, out, err = probe(options, ["encode", str(path)], data)
        expected = reference_results(lambda t: reference.encode(t).ids, texts)
        if code != 0 and ("TOK-UNSUPPORTED" in err or "TOK-REGEX" in err):
            counts["refused"] += 1
            refusals[err.split("\n")[0]] = refusals.get(err.split("\n")[0], 0) + 1
            continue
        if isinstance(expected, str) and code == 0 and "PanicException" in expected:
            counts["invalid"] += 1  # the library breaks down
            continue
        counts["files"] += 1
        description = json.dumps({k: v for k, v in document.items() if k != "model"} | {
            "model": model["type"]}, ensure_ascii=False).replace(charsmap or "-----", "T5's")

        def differs(what):
            counts["differing"] += 1
            if counts["differing"] <= 10:
                print(f"{what}\n  {description}", flush=True)
                if options.keep:
                    (options.keep / f"{number}.json").write_text(path.read_text())

        if isinstance(expected, str) or code != 0:
            if not (isinstance(expected, str) and code != 0):
                differs(f"encode: reference {str(expected)[:200]}, engine {code} {err}")
            continue
        got = [[int(i) for i in line.split()] for line in out.decode().split("\n")[:-1]]
        counts["encoded"] += len(texts)
        wrong = [i for i in range(len(texts)) if expected[i] != got[i]]
        if wrong:
            i = min(wrong, key=lambda i: len(texts[i]))
            differs(f"encode {len(wrong)}: {texts[i]!r} {expected[i]} {got[i]}")
        lists = expected + [[rng.randrange(size + len(added) + 1) for _ in range(rng.randint(1, 9))]
                            for _ in texts]
        lines = "".join(" ".join(map(str, ids)) + "\n" for ids in lists).encode()
        for flags, skip in (([], False), (["--skip-special"], True)):
            want = reference_results(
                lambda ids: reference.decode(ids, skip_special_tokens=skip), lists)
            if isinstance(want, str):
                continue
            code, out, err = probe(options, ["decode", str(path), *flags], lines)
            texts_back, at = [], 0
            while at < len(out):
                (length,) = struct.unpack_from("<I", out, at)
                texts_back.append(out[at + 4 : at + 4 + length].decode())
                at += 4 + length
            counts["decoded"] += len(lists)
            wrong = [i for i in range(len(lists)) if i >= len(texts_back) or want[i] != texts_back[i]]
            if wrong:
                i = min(wrong, key=lambda i: len(lists[i]))
                tokens = [reference.id_to_token(t) for t in lists[i]]
                differs(f"decode {flags} {len(wrong)}: {tokens} {want[i]!r} "
                        f"{texts_back[i] if i < len(texts_back) else err!r}")
    for what, count in sorted(refusals.items(), key=lambda item: -item[1]):
        print(f"{count:5d} {what}")
    print(counts)
    return 1 if counts["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
