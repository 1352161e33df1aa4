"""Compares the engine's tokenizer with Hugging Face tokenizers and sentencepiece on random and
adversarial strings.

    python tokenizer_differential.py --probe BUILD/tests/tokenizer/tokenizer_probe \
        [--shared SHARED_DATA] [--strings 20000] [--seed 1] [--only REGEX]

Needs the Python packages `tokenizers`, `tiktoken`, `sentencepiece` (up to 0.2.1: later versions round the sums of
unigram models differently, which decides ties) and `protobuf`, and Python 3.11. Prints, for every tokenizer,
how many strings encode differently, how many id lists decode differently, and exits with 1 if any
does. Also trains the same vocabularies with both libraries and compares them.
"""

import argparse
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile

import sentencepiece
import tokenizers
from tokenizers import Tokenizer, pre_tokenizers

import tokenizer_cases as cases
from tokenizer_strings import Strings, differing_characters


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


class Report:
    def __init__(self, name):
        self.name = name
        self.differences = self.encoded = self.decoded = 0

    def check(self, what, expected, got):
        if expected == got:
            return
        self.differences += 1
        if self.differences <= 3:
            print(f"  {self.name}: {what}\n    expected {expected!r}\n    got      {got!r}")

    def finish(self):
        print(f"{self.differences:5d} differences in {self.encoded} encodings and {self.decoded} "
              f"decodings: {self.name}", flush=True)
        return self


def batched(function, items, size=4096):
    return [result for at in range(0, len(items), size) for result in function(items[at : at + size])]


def own_texts(reference, count, rng, left_out):
    """Texts made of the tokenizer's own tokens, whole and in part: where segmentations compete."""
    size = reference.get_vocab_size()
    special = [t.content for t in reference.get_added_tokens_decoder().values()] or ["<s>"]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 10)):
            token = rng.choice(special) if rng.random() < 0.2 else (
                reference.id_to_token(rng.randrange(size)) or "")
            token = token.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")
            if rng.random() < 0.2 and token:
                token = token[: rng.randint(1, len(token))]
            parts.append(token)
        texts.append("".join(c for c in "".join(parts) if c not in left_out))
    return texts


def compare_hugging_face(name, path, probe, texts, rng, left_out=frozenset()):
    reference = Tokenizer.from_file(str(path))
    report = Report(name)
    texts = texts[: len(texts) * 4 // 5]
    texts = texts + own_texts(reference, len(texts) // 4, rng, left_out)
    for flags, special, parse in (((), True, True), (("--no-special", "--no-parse"), False, False)):
        reference.encode_special_tokens = not parse
        expected = batched(lambda batch: [e.ids for e in reference.encode_batch_fast(
            batch, add_special_tokens=special)], texts)
        for text, want, got in zip(texts, expected, engine_encode(probe, path, texts, *flags)):
            report.encoded += 1
            report.check(f"encode {flags} {text!r}", want, got)
    size = reference.get_vocab_size()
    random_ids = [[rng.randrange(size + 2) for _ in range(rng.randint(1, 12))] for _ in texts]
    byte_ids = [i for t, i in reference.get_vocab().items() if t.startswith("<0x") or len(t) == 1]
    random_ids += [[rng.choice(byte_ids) for _ in range(rng.randint(1, 9))] for _ in texts[::2]]
    for flags, skip in (((), False), (("--skip-special",), True)):
        # The decoder of old GPT's vocabularies fails when there is nothing to decode.
        lists = [ids for ids in expected + random_ids
                 if reference.decoder is None or "BPEDecoder" not in repr(reference.decoder)
                 or any(i < size for i in ids) and not skip]
        wanted = batched(
            lambda batch: reference.decode_batch(batch, skip_special_tokens=skip), lists)
        for ids, want, got in zip(lists, wanted, engine_decode(probe, path, lists, *flags)):
            report.decoded += 1
            report.check(f"decode {flags} {ids}", want, got)
    return report.finish()


def compare_sentencepiece(name, path, probe, texts, rng, left_out=frozenset()):
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    report = Report(f"sentencepiece: {name}")
    expected = batched(reference.encode, texts)
    flags = ("--no-special", "--no-parse")
    for text, want, got in zip(texts, expected, engine_encode(probe, path, texts, *flags)):
        if not want and "characters missing" in name:
            continue  # 0.2.1 gives up on the ids of such a model
        report.encoded += 1
        report.check(f"encode {text!r}", want, got)
    # Unknown and control pieces are printed differently: U+2047 and nothing in sentencepiece.
    plain = [i for i in range(reference.get_piece_size())
             if not reference.is_control(i) and not reference.is_unknown(i)]
    lists = [[rng.choice(plain) for _ in range(rng.randint(1, 12))] for _ in texts]
    byte_ids = [i for i in plain if reference.is_byte(i)]
    if byte_ids:
        lists += [[rng.choice(byte_ids) for _ in range(rng.randint(1, 9))] for _ in texts[::2]]
    lists += [ids for ids in expected if reference.unk_id() not in ids and ids]
    wanted = batched(reference.decode, lists)
    for ids, want, got in zip(lists, wanted, engine_decode(probe, path, lists)):
        report.decoded += 1
        report.check(f"decode {ids}", want, got)
    return report.finish()


def compare_tiktoken(name, path, probe, texts, rng, left_out=frozenset()):
    """A rank file with Llama 3's pattern, against OpenAI's library."""
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    reference = tiktoken.Encoding(name, pat_str=cases.LLAMA3, special_tokens={},
                                  mergeable_ranks=load_tiktoken_bpe(str(path)))
    report = Report(f"tiktoken: {name}")
    expected = batched(lambda batch: reference.encode_ordinary_batch(batch, num_threads=1), texts)
    flags = ("--no-special", "--no-parse")
    for text, want, got in zip(texts, expected, engine_encode(probe, path, texts, *flags)):
        report.encoded += 1
        report.check(f"encode {text!r}", want, got)
    lists = expected + [[rng.randrange(reference.n_vocab) for _ in range(rng.randint(1, 9))]
                        for _ in texts]
    for ids, got in zip(lists, engine_decode(probe, path, lists)):
        report.decoded += 1
        report.check(f"decode {ids}", reference.decode(ids), got)
    return report.finish()


def hugging_face_files(folder, probe, shared, corpus):
    """Yields (name, path)."""
    text_file = folder / "corpus.txt"
    text_file.write_bytes(corpus.encode())
    for pattern in ("gpt2", "llama3", "qwen2"):
        path = folder / f"engine_{pattern}.json"
        path.write_bytes(run_probe(probe, ["train", str(text_file), "3000", pattern, "2"], b""))
        yield f"trained by the engine, {pattern} split", path
    few = folder / "few.txt"
    few.write_bytes(corpus[:300000].encode())
    path = folder / "engine_unigram.json"
    path.write_bytes(run_probe(probe, ["train-unigram", str(few), "2000"], b""))
    yield "trained by the engine, Unigram", path
    charsmap = None
    if shared:
        charsmap = cases.precompiled_charsmap(shared / "tokenizers/t5/spiece.model")
    number = 0
    for source in (cases.byte_level_cases(corpus), cases.character_cases(corpus),
                   cases.unigram_cases(corpus, charsmap)):
        for name, tokenizer in source:
            number += 1
            path = folder / f"{number}.json"
            tokenizer.save(str(path))
            yield name, path
    if not shared:
        return
    data = shared / "tokenizers"
    for name, model, settings in (
        ("T5, converted", "t5/spiece.model", {}),
        ("Llama 2, converted", "llama2/tokenizer.model", {}),
        ("Gemma-like, converted", "gemma/gemma_like_synthetic.model", {"gemma": True}),
    ):
        path = folder / f"{name}.json"
        cases.converted(data / model, **settings).save(str(path))
        yield name, path
    yield "llama3 style file", data / "hf_json/torchtune_llama3style_tokenizer.json"
    yield "tiny file", data / "hf_json/torchtune_tiny_bpe_tokenizer.json"
    yield "cropped Gemma file", data / "gemma/torchtune_tokenizer_gemma_cropped.json"
    path = folder / "tok512.json"
    tok512 = shared / "weights/stories260K/tok512.bin"
    path.write_bytes(run_probe(probe, ["llama2c", str(tok512)], b""))
    yield "llama2.c tok512", path


def sentencepiece_files(folder, shared, corpus):
    """Yields (name, path)."""
    for number, (name, model) in enumerate(cases.sentencepiece_models(corpus)):
        path = folder / f"{number}.model"
        path.write_bytes(model)
        yield name, path
    if shared:
        for name in ("t5/spiece.model", "llama2/tokenizer.model", "small_sp/torchtune_m.model",
                     "gemma/gemma_like_synthetic.model", "gemma/keras_gemma_export_vocab.spm"):
            yield name, shared / "tokenizers" / name


def compare_training(folder, probe, corpus):
    text_file = folder / "train.txt"
    text_file.write_bytes(corpus.encode())
    differences = 0
    for pattern, regex in (("gpt2", None), ("llama3", cases.LLAMA3)):
        for vocab_size in (500, 8000):
            pre = pre_tokenizers.ByteLevel(add_prefix_space=False) if not regex else (
                cases.split_then_bytes(regex))
            theirs = json.loads(cases.byte_level_model(vocab_size, corpus, pre).to_str())["model"]
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
    parser.add_argument("--only", default="", help="regular expression: compare only tokenizers "
                        "with a match in their name")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    corpus = "The quick brown fox doesn't jump over 12 lazy dogs; it's 3.14 o'clock.\n" * 50
    if options.shared:
        path = options.shared / "datasets/tinyshakespeare/input.txt"
        corpus = path.read_bytes().decode()[:600000] + corpus
    left_out = differing_characters()
    noise = Strings(rng, "", left_out)
    corpus += "".join(noise.text() + "\n" for _ in range(2000)).replace("\r", "").replace("\0", "")
    print(f"tokenizers {tokenizers.__version__}, sentencepiece {sentencepiece.__version__}, "
          f"seed {options.seed}, {len(left_out)} characters left out")
    strings = Strings(rng, corpus, left_out)
    differences = encoded = decoded = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if not options.only:
            differences += compare_training(folder, options.probe, corpus)
        texts = [strings.text() for _ in range(options.strings)]
        everything = [(compare_hugging_face, source) for source in (
            hugging_face_files(folder, options.probe, options.shared, corpus),)]
        everything += [(compare_sentencepiece, sentencepiece_files(folder, options.shared, corpus))]
        if options.shared:
            ranks = options.shared / "tokenizers/llama3/tokenizer.model"
            everything += [(compare_tiktoken, [("Llama 3 ranks", ranks)])]
        for compare, source in everything:
            for label, path in source:
                if not re.search(options.only, label):
                    continue
                report = compare(label, path, options.probe, texts, rng, left_out)
                differences += report.differences
                encoded += report.encoded
                decoded += report.decoded
    print(f"{differences} differences in all, {encoded} encodings, {decoded} decodings")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
