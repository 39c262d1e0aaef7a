package disk

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

var testID = logID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// aFrame is a rows frame as it stands in a commit.
func aFrame() []byte {
	var rows record.Rows
	rows.Append([]byte("k"), []byte("v"))
	payload := record.AppendBatch(nil, &rows, 0, 1, record.BatchOptions{Timestamp: 9, BaseOffset: 5})
	h := frameHeader{
		epoch: 3, commit: 4, view: 7, partition: 2, kind: rowsFrame, base: 5, rows: 1, payload: len(payload),
		producer: &hotbuffer.Producer{ID: hotbuffer.ProducerID{0xaa}, Epoch: 1, Sequence: 6, Once: true},
	}
	b := make([]byte, frameHeaderSize)
	h.put(b, &testID)
	return append(b, payload...)
}

func validFrame(b []byte) (frameHeader, bool) {
	h, ok := decodeFrameHeader(b, &testID, 3)
	if !ok {
		return h, false
	}
	_, err := h.checkPayload(b[frameHeaderSize:frameHeaderSize+h.payload], &testID)
	return h, err == nil
}

// TestFrameBits: no flipped bit of a frame goes unnoticed.
func TestFrameBits(t *testing.T) {
	t.Parallel()
	good := aFrame()
	if _, ok := validFrame(good); !ok {
		t.Fatal("the frame does not validate")
	}
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if _, ok := validFrame(b); ok {
			t.Errorf("bit %d of byte %d was not noticed", i%8, i/8)
		}
	}
	for n := range good {
		if h, ok := decodeFrameHeader(good[:n], &testID, 3); ok {
			t.Errorf("%d bytes of %d decode as %+v", n, len(good), h)
		}
	}
	if _, ok := decodeFrameHeader(good, &testID, 4); ok {
		t.Error("a frame of another epoch validates")
	}
	if _, ok := decodeFrameHeader(good, &logID{}, 3); ok {
		t.Error("a frame of another log validates")
	}
}

// TestGoldenFormat pins the format: these bytes are on people's disks.
func TestGoldenFormat(t *testing.T) {
	t.Parallel()
	commit := make([]byte, commitHeaderSize+tocEntrySize)
	tocEntry{view: 7, partition: 2, rows: 1, base: 5, pos: 72, len: 160}.put(commit[commitHeaderSize:])
	commitHeader{epoch: 3, number: 4, timestamp: 0x0102030405, length: 232, frames: 1}.put(commit, &testID)
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"segment header": {segmentHeader{epoch: 3, size: 64 << 10, id: testID}.encode()[:64],
			"54435345474d4e54 80cfaf9a 00000001 0000000000000003 0000000000010000 0102030405060708090a0b0c0d0e0f10 00000000000000000000000000000000"},
		"commit": {commit,
			"54434d54 91ed0cd1 0000000000000003 0000000000000004 0000000102030405 000000e8 00000001" +
				"0000000000000007 00000002 00000001 0000000000000005 00000048 000000a0"},
		"frame header": {aFrame()[:frameHeaderSize],
			"54434652 35136b5a 0000000000000003 0000000000000004 0000000000000007 00000002 01 03 0000 0000000000000005 00000001 00000046 00000000 00000001 0000000000000006 aa000000000000000000000000000000"},
		"views": {appendViews(nil, []viewState{{id: 7, lastTimestamp: 300, next: record.Offsets{1, 2}, released: record.Offsets{0, 1}}}), "01 07 ac02 02 01 00 02 01"},
	} {
		want, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(c.want), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(hex.Dump(want), hex.Dump(c.got)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestCheckpointRoundTrip(t *testing.T) {
	t.Parallel()
	s := newProducers(1000)
	for i := range int64(40) {
		p := &hotbuffer.Producer{ID: hotbuffer.ProducerID{byte(i % 3)}, Epoch: int32(i / 20), Sequence: i, Once: i == 7}
		ranges := []hotbuffer.PartRange{{Partition: 1, Range: record.Range{Start: record.Offset(i), End: record.Offset(i + 3)}}}
		if o, err := s.check(5, p); o == nil && err == nil {
			s.apply(5, p, ranges[:i%2], 1000+i)
		}
	}
	got := newProducers(1000)
	for _, b := range s.frames() {
		if err := got.load(b); err != nil {
			t.Fatal(err)
		}
	}
	list := func(s *producers) (out []producer) {
		for e := s.idle.Front(); e != nil; e = e.Next() {
			out = append(out, *e.Value.(*producer))
		}
		return out
	}
	if d := cmp.Diff(list(s), list(got), cmp.AllowUnexported(producer{}, producerKey{}, outcome{})); d != "" {
		t.Error(d)
	}
	if got.ranges != s.ranges {
		t.Errorf("%d ranges, want %d", got.ranges, s.ranges)
	}
}
