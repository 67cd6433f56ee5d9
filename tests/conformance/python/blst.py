"""Stands in for supranational's `blst`, which icp-py-core checks certificates with and which is not on PyPI.

Only the curve arithmetic is ours; what is signed, by which key and in which domain is for icp-py-core to know.
"""

from py_arkworks_bls12381 import GT, G1Point, G2Point

BLST_SUCCESS = 0


class P2_Affine:  # noqa: N801
    def __init__(self, data):
        self.point = G2Point.from_compressed_bytes(data)


class P1_Affine:  # noqa: N801
    def __init__(self, data):
        self.point = G1Point.from_compressed_bytes(data)

    def core_verify(self, key, is_hashed, message, domain, _augmentation=None):
        assert is_hashed
        hashed = G1Point.hash_to_curve(message, domain)
        return BLST_SUCCESS if GT.pairing_check([self.point, -hashed], [G2Point(), key.point]) else 1


class Pairing:
    def __init__(self, *_):
        raise NotImplementedError("core_verify decides")
