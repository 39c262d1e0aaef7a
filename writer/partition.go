package writer

import (
	"encoding/binary"

	"github.com/thermocline/thermocline/record"
)

// partitionOf places a key as Kafka's default partitioner does, so that rows
// which come through a Kafka client and through REST with the same key bytes
// meet in the same partition.
func partitionOf(key []byte, partitions int) record.Partition {
	return record.Partition(int(murmur2(key)&0x7fffffff) % partitions)
}

// murmur2 is MurmurHash2 (Austin Appleby, public domain), 32 bits, with the seed
// that Kafka uses.
func murmur2(b []byte) uint32 {
	const m, r = 0x5bd1e995, 24
	h := uint32(0x9747b28c) ^ uint32(len(b))
	for len(b) >= 4 {
		k := binary.LittleEndian.Uint32(b)
		k *= m
		k ^= k >> r
		k *= m
		h = h*m ^ k
		b = b[4:]
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
