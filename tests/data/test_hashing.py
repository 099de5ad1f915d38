"""Hashes name caches, stores and seals on disk, so they stay what they are: BLAKE2b, checked by known values."""

from dpotrain.core.hashing import hash_file, hash_text

#: Of "abc", with 64 (RFC 7693, appendix A), 32 and 16 bytes.
ABC = {
    64: "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
    "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
    32: "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319",
    16: "cf4ab791c62b8d2b2109c90275287816",
}


def test_a_file_and_a_text_hash_to_the_known_values(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert (
        {size: hash_file(path, size) for size in ABC} == ABC == {size: hash_text("abc", size) for size in ABC}
    )
    assert hash_file(path) == ABC[64]
    assert hash_text("abc") == ABC[16]


def test_half_a_surrogate_pair_has_a_hash():
    assert hash_text("\ud800") != hash_text("\udfff")
