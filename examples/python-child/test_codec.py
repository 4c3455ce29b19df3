"""The codec against the frames in tests/child-protocol: `python3 -m unittest discover examples/python-child`."""

import pathlib
import random
import unittest

from codec import DEPTH, CodecError, decode, encode

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "tests" / "child-protocol"
ONE, OTHER = bytes([7]) * 16, bytes([9]) * 16


def frame(name):
    lines = (VECTORS / f"{name}.hex").read_text(encoding="utf-8").splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def body(name):
    data = frame(name)
    assert int.from_bytes(data[:4], "big") == len(data) - 4, name
    return data[4:]


class Vectors(unittest.TestCase):
    def test_every_frame_is_read_and_written_the_same(self):
        names = [path.stem for path in VECTORS.glob("*.hex")]
        self.assertGreater(len(names), 10)
        for name in names:
            with self.subTest(name):
                self.assertEqual(encode(decode(body(name))), body(name))

    def test_frames_mean_what_they_say(self):
        self.assertEqual(
            decode(body("hello")),
            {"hello": {"v": 1, "p": 4711, "t": ["misbehave", "primes"], "w": 16, "fd": True}},
        )
        jobs = decode(body("run"))["run"]
        fence = {"h": 0, "c": 1, "k": 0x0123456789ABCDEF}
        self.assertEqual([(job["i"], job["t"], job["f"]) for job in jobs], [(ONE, "primes", fence)])
        self.assertEqual(decode(jobs[0]["a"]["b"]), {"below": 100})
        self.assertEqual((jobs[0]["at"], jobs[0]["s"], jobs[0]["d"]), (1_790_000_000_000_000, 20_000, 30_000))
        several = decode(body("done-several"))["done"]
        self.assertEqual([(done["i"], done["o"]) for done in several], [(ONE, {"snooze": {"d": 5000}}), (OTHER, {"back": None})])
        self.assertEqual(decode(body("log")), {"log": {"i": ONE, "m": "größer als 1"}})
        self.assertEqual(decode(body("unknown-keys"))["cancel"]["i"], ONE)

    def test_what_is_no_messagepack_is_refused(self):
        for name in ["garbage", "empty", "trailing", "deep", "lying-length"]:
            with self.subTest(name), self.assertRaises(CodecError):
                decode(body(f"bad/{name}"))


class Values(unittest.TestCase):
    def test_numbers_at_every_edge(self):
        edges = [edge for bits in (5, 7, 8, 15, 16, 31, 32, 63) for edge in (1 << bits, -(1 << bits))]
        for edge in edges + [(1 << 64) - 2]:
            for number in (edge - 1, edge, edge + 1):
                if -(1 << 63) <= number < 1 << 64:
                    self.assertEqual(decode(encode(number)), number)
        for number in (1 << 64, -(1 << 63) - 1):
            with self.assertRaises(CodecError):
                encode(number)

    def test_lengths_at_every_edge(self):
        for length in (0, 15, 16, 31, 32, 255, 256, 65535, 65536):
            for value in ("x" * length, b"x" * length, [None] * length, {str(n): n for n in range(length)}):
                self.assertEqual(decode(encode(value)), value)

    def test_depth_is_bounded_both_ways(self):
        value = None
        for _ in range(DEPTH):
            value = [value]
        data = encode(value)
        self.assertEqual(decode(data), value)
        with self.assertRaises(CodecError):
            encode([value])
        with self.assertRaises(CodecError):
            decode(b"\x91" + data)

    def test_noise_is_refused_or_read(self):
        noise = random.Random(7)
        for _ in range(20_000):
            data = bytes(noise.randrange(256) for _ in range(noise.randrange(24)))
            try:
                decode(data)
            except CodecError:
                pass


if __name__ == "__main__":
    unittest.main()
