// Auditverify checks a log that Lockgate wrote with code that nobody here wrote: golang.org/x/mod's note and tlog,
// which the Go checksum database stands on.
//
//	auditverify LOG KEYFILE [OLDER-HEAD]
//
// It opens the signed tree head, reads every tile that the head covers, hashes every entry, proves and checks the
// inclusion of each, and the consistency with an older head where one is given. On success it prints one JSON
// document: size, root, and the proofs, for others to check. Whatever does not fit is one line on stderr and exit 1.
//
// Not covered: what entries mean, and cosignatures (x/mod knows no keys of type 0x04 and skips their lines).
package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

// A folder is a log on disk, in the layout of tlog-tiles, as a tlog.TileReader.
type folder string

func (f folder) Height() int { return height }

// SaveTiles keeps nothing: the tiles lie on the disk already.
func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, 0, len(tiles))
	for _, tile := range tiles {
		data, err := os.ReadFile(f.path(tile))
		if err != nil {
			return nil, err
		}
		if len(data) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes", f.path(tile), len(data))
		}
		found = append(found, data)
	}
	return found, nil
}

// path drops the height, which tlog puts before the level, and renames what tlog calls data.
func (f folder) path(tile tlog.Tile) string {
	name := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
	if rest := strings.TrimPrefix(name, "data/"); rest != name {
		name = "entries/" + rest
	}
	return filepath.Join(string(f), "tile", name)
}

// bundle takes the entries below one tile of level 0 apart: each stands after its length in two bytes.
func (f folder) bundle(tile tlog.Tile) ([][]byte, error) {
	tile.L = -1
	data, err := os.ReadFile(f.path(tile))
	if err != nil {
		return nil, err
	}
	entries := make([][]byte, 0, tile.W)
	for len(data) >= 2 && len(entries) < tile.W {
		length := int(binary.BigEndian.Uint16(data))
		if len(data) < 2+length {
			break
		}
		entries, data = append(entries, data[2:2+length]), data[2+length:]
	}
	if len(entries) != tile.W || len(data) != 0 {
		return nil, fmt.Errorf("%s does not hold %d entries", f.path(tile), tile.W)
	}
	return entries, nil
}

// open verifies the note of a tree head and reads its three lines.
func open(path string, key note.Verifier) (origin string, tree tlog.Tree, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", tree, err
	}
	opened, err := note.Open(data, note.VerifierList(key))
	if err != nil {
		return "", tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return "", tree, errors.New("a tree head has three lines")
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return "", tree, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return "", tree, errors.New("a root has 32 bytes")
	}
	copy(tree.Hash[:], root)
	return lines[0], tree, nil
}

type report struct {
	Size        int64              `json:"size"`
	Root        tlog.Hash          `json:"root"`
	Tiles       int                `json:"tiles"`
	Inclusion   []tlog.RecordProof `json:"inclusion"`
	Old         int64              `json:"old"`
	Consistency tlog.TreeProof     `json:"consistency"`
}

func verify(log, keyFile, older string) (*report, error) {
	line, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	key, err := note.NewVerifier(strings.TrimSuffix(string(line), "\n"))
	if err != nil {
		return nil, err
	}
	origin, tree, err := open(filepath.Join(log, "checkpoint"), key)
	if err != nil {
		return nil, err
	}
	if origin != key.Name() {
		return nil, errors.New("the log has another name than its key")
	}
	// The reader checks most tiles, but x/mod 0.7 lets some full ones through where the right edge has several
	// subtrees in one tile. CheckRecord trusts none of them: every hash of every tile is in some entry's proof.
	hashes := tlog.TileHashReader(tree, folder(log))
	told := &report{Size: tree.N, Root: tree.Hash}
	for _, tile := range tlog.NewTiles(height, 0, tree.N) {
		if left := tree.N>>(height*tile.L) - tile.N<<height; tile.W < 1<<height && int64(tile.W) < left {
			continue // a width that was superseded: NewTiles counts those of every size before
		}
		told.Tiles++
		indexes := make([]int64, tile.W)
		for k := range indexes {
			indexes[k] = tlog.StoredHashIndex(tile.L*height, tile.N<<height+int64(k))
		}
		under, err := hashes.ReadHashes(indexes)
		if err != nil {
			return nil, err
		}
		if tile.L > 0 {
			continue
		}
		entries, err := folder(log).bundle(tile)
		if err != nil {
			return nil, err
		}
		for k, entry := range entries {
			index, leaf := tile.N<<height+int64(k), tlog.RecordHash(entry)
			if leaf != under[k] {
				return nil, fmt.Errorf("entry %d is not the one under the tree head", index)
			}
			proof, err := tlog.ProveRecord(tree.N, index, hashes)
			if err != nil {
				return nil, err
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, leaf); err != nil {
				return nil, fmt.Errorf("entry %d: %w", index, err)
			}
			told.Inclusion = append(told.Inclusion, proof)
		}
	}
	if older == "" {
		return told, nil
	}
	name, before, err := open(older, key)
	if err != nil {
		return nil, err
	}
	if name != origin || before.N > tree.N {
		return nil, errors.New("the older head is of another log, or the log was cut")
	}
	told.Old = before.N
	if told.Consistency, err = tlog.ProveTree(tree.N, before.N, hashes); err != nil {
		return nil, err
	}
	if err := tlog.CheckTree(told.Consistency, tree.N, tree.Hash, before.N, before.Hash); err != nil {
		return nil, fmt.Errorf("history was rewritten: %w", err)
	}
	return told, nil
}

func main() {
	if len(os.Args) != 3 && len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: auditverify LOG KEYFILE [OLDER-HEAD]")
		os.Exit(2)
	}
	told, err := verify(os.Args[1], os.Args[2], strings.Join(os.Args[3:], ""))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(told)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "auditverify:", err)
		os.Exit(1)
	}
}
