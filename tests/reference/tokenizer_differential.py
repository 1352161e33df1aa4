"""Compares the engine's tokenizer with Hugging Face tokenizers on random and adversarial strings.

    python tokenizer_differential.py --probe BUILD/tests/tokenizer/tokenizer_probe \
        [--shared SHARED_DATA] [--strings 20000] [--seed 1]

Needs the Python package `tokenizers`. Prints, for every tokenizer, how many strings encode
differently, how many id lists decode differently, and exits with 1 if any does. Also trains the
same vocabulary with both libraries and compares them.
"""

import argparse
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", LLAMA3]

FRAGMENTS = (
    list("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789 .,;:!?'\"()[]{}<>|/\\@#$%^&*-_=+~`")
    + [" ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\r", "\v", "\f", "\x00", "\x1f", "\x7f"]
    + ["'s", "'LL", "'Re", "'ſ", "ſ", "K", "K's", "n't", " the", " and", "ing", "Hello", "world"]
    + ["\x85", "\xa0", "\u1680", "\u180e", "\u2000", "\u200a", "\u200b", "\u200c", "\u200d"]
    + ["\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff", "\u2581", "\u2581\u2581"]
    + ["é", "e\u0301", "A\u030a", "\u212b", "\u1e9b\u0323", "ﬁ", "½", "²", "①", "Ⅷ", "٣", "४", "〇"]
    + ["漢字", "日本語", "ひらがな", "カタカナ", "か\u3099", "한국어", "\u1112\u1161\u11ab", "中文。"]
    + ["привет", "Ω", "ß", "İ", "ǅ", "ʰ", "ª", "\u0301", "\u0300\u0323", "\u0483", "\u20e3"]
    + ["😀", "👩\u200d👩\u200d👧", "🇩🇪", "🏽", "\U0001f130", "\U0002f800", "\U000e0001", "\U0010ffff"]
    + ["\ufffd", "\ufffe", "\ue000", "ا", "مرحبا", "שלום", "ก็", "\u0e33", "नमस्ते", "\u0f73"]
    + ["<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im", "<tool>", "[MASK]", "word"]
    + ["<0x41>", "<0xFF>", "Ġ", "Ċ", "ĠĠ", "aaaaaaaa", "        ", "0000000", "......", "\n \n \n"]
)


def random_text(rng, corpus):
    kind = rng.random()
    if kind < 0.55:
        return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(0, 24)))
    if kind < 0.75 and corpus:
        start = rng.randrange(len(corpus))
        text = list(corpus[start : start + rng.randint(1, 200)])
        for _ in range(rng.randint(0, 3)):
            text.insert(rng.randint(0, len(text)), rng.choice(FRAGMENTS))
        return "".join(text)
    if kind < 0.9:
        chars = []
        for _ in range(rng.randint(1, 16)):
            limit = rng.choice([0x80, 0x250, 0x3000, 0x10000, 0x20000, 0x110000])
            c = rng.randrange(limit)
            chars.append(chr(c if not 0xD800 <= c < 0xE000 else 0x20))
        return "".join(chars)
    return rng.choice(FRAGMENTS) * rng.randint(1, 200)  # long pieces


# Normalization mappings and combining marks new in Unicode 13 and 14: utf8proc has them, tokenizers
# does not.
NEW_MAPPINGS = [(0x0898, 0x089F), (0x08C8, 0x08D2), (0x0C3C, 0x0C3C), (0x1ABF, 0x1ACE),
                (0x1DFA, 0x1DFA), (0xAB69, 0xAB69), (0x10780, 0x107BA), (0x10EAB, 0x10EAC),
                (0x10F82, 0x10F85), (0x11070, 0x11070), (0x11930, 0x11943), (0x1FBF0, 0x1FBF9)]


def random_known_text(rng, corpus):
    """Leaves out characters that only one of the two libraries knows.

    PCRE2 10.42 classifies characters by Unicode 14, tokenizers 0.23 by Unicode 16: run this with
    Python 3.11, whose tables are of Unicode 14 too.
    """
    text = random_text(rng, corpus)
    return "".join(c for c in text if unicodedata.category(c) != "Cn"
                   and not any(low <= ord(c) <= high for low, high in NEW_MAPPINGS))


def run_probe(probe, arguments, data):
    result = subprocess.run([probe, *arguments], input=data, capture_output=True)
    if result.returncode != 0:
        sys.exit(f"probe {arguments} failed: {result.stderr.decode()}")
    return result.stdout


def engine_encode(probe, path, texts, *flags):
    data = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    lines = run_probe(probe, ["encode", str(path), *flags], data).decode().split("\n")[:-1]
    return [[int(i) for i in line.split()] for line in lines]


def engine_decode(probe, path, id_lists, *flags):
    data = "".join(" ".join(map(str, ids)) + "\n" for ids in id_lists).encode()
    out, texts, at = run_probe(probe, ["decode", str(path), *flags], data), [], 0
    while at < len(out):
        (length,) = struct.unpack_from("<I", out, at)
        texts.append(out[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return texts


def text_lines(corpus):
    return corpus.replace("\n", "\n\0").rstrip("\0").split("\0")


def byte_level_model(vocab_size, corpus, pre_tokenizer, normalizer=None, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(text_lines(corpus), trainer)
    return tokenizer


def split_then_bytes(*patterns, behavior="isolated"):
    steps = [pre_tokenizers.Split(Regex(p), behavior) for p in patterns]
    return pre_tokenizers.Sequence(
        steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def character_model(corpus, vocab_size, byte_tokens, **options):
    """BPE over characters with "▁" for spaces; `byte_tokens` of the 256 <0xXX> exist."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **options))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in byte_tokens],
        max_token_length=8,
    )
    tokenizer.train_from_iterator(text_lines(corpus), trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]  # bytes are plain vocabulary
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def add_flagged_tokens(tokenizer):
    # No special token is normalized here: with a normalizer that changes it, Hugging Face no longer
    # recognises it in decode(skip_special_tokens=True); the engine does.
    tokenizer.add_special_tokens(
        [
            AddedToken("<|im_start|>", special=True),
            AddedToken("[MASK]", lstrip=True, special=True),
            AddedToken("<tool>", rstrip=True, special=True),
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken("word", single_word=True),
            AddedToken("é", normalized=True),
            AddedToken("<|im", lstrip=True, rstrip=True, normalized=False),
            AddedToken("aaaa", normalized=False),
            AddedToken("  ", normalized=True),
        ]
    )
    return tokenizer


def all_tokenizers(folder, probe, shared, corpus):
    """Yields (name, path, strings share)."""

    def saved(name, tokenizer):
        path = folder / f"{name}.json"
        tokenizer.save(str(path))
        return name, path

    def bpe(*args, **kwargs):
        return byte_level_model(2000, corpus[:400000], *args, **kwargs)

    plain_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text_file = folder / "corpus.txt"
    text_file.write_bytes(corpus.encode())
    for pattern in ("gpt2", "llama3", "qwen2"):
        path = folder / f"engine_{pattern}.json"
        path.write_bytes(run_probe(probe, ["train", str(text_file), "3000", pattern, "2"], b""))
        yield f"trained by the engine, {pattern} split", path
    yield saved("byte-level, GPT-2", bpe(plain_bytes))
    yield saved("byte-level, prefix space", bpe(pre_tokenizers.ByteLevel(add_prefix_space=True)))
    yield saved("llama3 split, ignore_merges", bpe(split_then_bytes(LLAMA3), ignore_merges=True))
    yield saved("qwen2 split, NFC", bpe(split_then_bytes(QWEN2), normalizers.NFC()))
    yield saved("NFKC", bpe(plain_bytes, normalizers.NFKC()))
    yield saved("NFD, strip", bpe(plain_bytes, normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFD()])))
    yield saved("o200k split", bpe(split_then_bytes(O200K)))
    yield saved("cl100k split", bpe(split_then_bytes(CL100K)))
    yield saved("three splits", bpe(split_then_bytes(*DEEPSEEK)))
    yield saved("digits", bpe(pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), plain_bytes])))
    yield saved("digit runs", bpe(pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), plain_bytes])))
    yield saved("\\w, \\d, \\s, \\h classes", bpe(
        split_then_bytes(r"[^\S\n]*\w+|\D\d|\s|\H")))
    yield saved("scripts", bpe(split_then_bytes(r"\p{Han}+|\p{Hiragana}+|\p{Cyrillic}+|^a|b$")))
    for behavior in ("removed", "merged_with_previous", "merged_with_next", "contiguous"):
        yield saved(f"split {behavior}", bpe(split_then_bytes(r"\s+|\p{P}", behavior=behavior)))
        inverted = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}"), behavior, invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        yield saved(f"split {behavior}, inverted", bpe(inverted))
    yield saved("added tokens, byte-level", add_flagged_tokens(bpe(plain_bytes)))
    yield saved("added tokens, NFC", add_flagged_tokens(
        bpe(split_then_bytes(QWEN2), normalizers.NFC())))
    every_byte = list(range(256))
    few = corpus[:200000]
    fallback = character_model(few, 1500, every_byte, byte_fallback=True, fuse_unk=True)
    yield saved("byte fallback", fallback)
    yield saved("byte fallback, added tokens", add_flagged_tokens(
        character_model(few, 1500, every_byte, byte_fallback=True, fuse_unk=True)))
    some_bytes = [b for b in every_byte if b % 3]
    for fuse in (False, True):
        yield saved(f"byte fallback with gaps, fuse_unk={fuse}", character_model(
            few, 1200, some_bytes, byte_fallback=True, fuse_unk=fuse))
        yield saved(f"no byte fallback, fuse_unk={fuse}", character_model(
            few, 1200, [], fuse_unk=fuse))
    for scheme in ("always", "first", "never"):
        metaspace = character_model(few, 1000, every_byte, byte_fallback=True)
        metaspace.normalizer = None
        metaspace.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=scheme != "first")
        metaspace.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace("▁", scheme)])
        yield saved(f"metaspace {scheme}", add_flagged_tokens(metaspace))
    if shared:
        data = shared / "tokenizers"
        yield "llama3 style file", data / "hf_json/torchtune_llama3style_tokenizer.json"
        yield "tiny file", data / "hf_json/torchtune_tiny_bpe_tokenizer.json"
        yield "cropped Gemma file", data / "gemma/torchtune_tokenizer_gemma_cropped.json"
        path = folder / "tok512.json"
        tok512 = shared / "weights/stories260K/tok512.bin"
        path.write_bytes(run_probe(probe, ["llama2c", str(tok512)], b""))
        yield "llama2.c tok512", path


def compare(name, path, probe, texts, rng):
    reference = Tokenizer.from_file(str(path))
    differences = 0

    def report(what, expected, got):
        nonlocal differences
        differences += 1
        if differences <= 3:
            print(f"  {name}: {what}\n    expected {expected}\n    got      {got}")

    num_encoded = num_decoded = 0
    for flags, special, parse in (((), True, True), (("--no-special", "--no-parse"), False, False)):
        reference.encode_special_tokens = not parse
        expected = [reference.encode(t, add_special_tokens=special).ids for t in texts]
        for text, want, got in zip(texts, expected, engine_encode(probe, path, texts, *flags)):
            num_encoded += 1
            if want != got:
                report(f"encode {flags} {text!r}", want, got)
    size = reference.get_vocab_size()
    random_ids = [[rng.randrange(size + 2) for _ in range(rng.randint(0, 12))] for _ in texts]
    byte_ids = [i for t, i in reference.get_vocab().items() if t.startswith("<0x") or len(t) == 1]
    random_ids += [[rng.choice(byte_ids) for _ in range(rng.randint(1, 9))] for _ in texts[::2]]
    for flags, skip in (((), False), (("--skip-special",), True)):
        lists = expected + random_ids
        for ids, got in zip(lists, engine_decode(probe, path, lists, *flags)):
            num_decoded += 1
            want = reference.decode(ids, skip_special_tokens=skip)
            if want != got:
                report(f"decode {flags} {ids}", repr(want), repr(got))
    print(f"{differences:5d} differences in {num_encoded} encodings and {num_decoded} decodings: {name}")
    return differences, num_encoded


def compare_training(folder, probe, corpus):
    text_file = folder / "train.txt"
    text_file.write_bytes(corpus.encode())
    differences = 0
    for pattern, regex in (("gpt2", None), ("llama3", LLAMA3)):
        for vocab_size in (500, 8000):
            pre = pre_tokenizers.ByteLevel(add_prefix_space=False) if not regex else (
                split_then_bytes(regex))
            theirs = json.loads(byte_level_model(vocab_size, corpus, pre).to_str())["model"]
            ours = json.loads(run_probe(
                probe, ["train", str(text_file), str(vocab_size), pattern, "0"], b""))["model"]
            their_merges = [m if isinstance(m, str) else " ".join(m) for m in theirs["merges"]]
            same = theirs["vocab"] == ours["vocab"] and their_merges == ours["merges"]
            differences += not same
            print(f"training {pattern} {vocab_size}: {'same' if same else 'DIFFERENT'} vocabulary")
    return differences


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", required=True)
    parser.add_argument("--shared", type=pathlib.Path)
    parser.add_argument("--strings", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    corpus = "The quick brown fox doesn't jump over 12 lazy dogs; it's 3.14 o'clock.\n" * 50
    if options.shared:
        path = options.shared / "datasets/tinyshakespeare/input.txt"
        corpus = path.read_bytes().decode()[:600000] + corpus
    corpus += "".join(random_known_text(rng, "") + "\n" for _ in range(2000)).replace("\r", "").replace("\0", "")
    print(f"tokenizers {tokenizers.__version__}, seed {options.seed}")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        differences = compare_training(folder, options.probe, corpus)
        texts = [random_known_text(rng, corpus) for _ in range(options.strings)]
        encoded = 0
        for label, path in all_tokenizers(folder, options.probe, options.shared, corpus):
            more, count = compare(label, path, options.probe, texts, rng)
            differences += more
            encoded += count
        print(f"{differences} differences in all, {encoded} encodings")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
