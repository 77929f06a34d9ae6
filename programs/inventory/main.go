// Inventory walks directories and prints, as JSON, what it found: each file with its size and SHA-256, the files that
// are copies of one another, and the most frequent words of the text files. It is a program for trying Selkis with what the
// Go runtime asks of WASI: directory reading, files, a garbage collector, goroutines, clocks.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// File is one regular file.
type File struct {
	Path   string `json:"path"`
	Bytes  int    `json:"bytes"`
	SHA256 string `json:"sha256"`

	words map[string]int
}

// Word is a word and how often it occurs.
type Word struct {
	Word  string `json:"word"`
	Count int    `json:"count"`
}

// Report is what is printed.
type Report struct {
	Files      []File     `json:"files"`
	TotalBytes int        `json:"total_bytes"`
	Duplicates [][]string `json:"duplicates"`
	Words      []Word     `json:"words"`
}

const (
	readers  = 4
	topWords = 20
)

func main() {
	roots := os.Args[1:]
	if len(roots) == 0 {
		fmt.Fprintln(os.Stderr, "usage: inventory DIRECTORY...")
		os.Exit(2)
	}
	report, err := survey(roots)
	if err != nil {
		fmt.Fprintln(os.Stderr, "inventory:", err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(report); err != nil {
		fmt.Fprintln(os.Stderr, "inventory:", err)
		os.Exit(1)
	}
}

// survey reads every regular file below the roots; the order of the result does not depend on the order of reading.
func survey(roots []string) (*Report, error) {
	paths, err := regularFiles(roots)
	if err != nil {
		return nil, err
	}
	files := make([]File, len(paths))
	errs := make([]error, len(paths))
	next := make(chan int)
	var working sync.WaitGroup
	for range readers {
		working.Go(func() {
			for i := range next {
				files[i], errs[i] = examine(paths[i])
			}
		})
	}
	for i := range paths {
		next <- i
	}
	close(next)
	working.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return summarise(files), nil
}

func regularFiles(roots []string) ([]string, error) {
	var paths []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				paths = append(paths, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	sort.Strings(paths)
	return paths, nil
}

func examine(path string) (File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return File{}, err
	}
	sum := sha256.Sum256(data)
	return File{path, len(data), hex.EncodeToString(sum[:]), countWords(data)}, nil
}

// countWords counts the words of a text, and none of anything else.
func countWords(data []byte) map[string]int {
	if !utf8.Valid(data) {
		return nil
	}
	counts := make(map[string]int)
	words := bufio.NewScanner(bytes.NewReader(data))
	words.Buffer(nil, len(data)+1)
	words.Split(bufio.ScanWords)
	for words.Scan() {
		word := strings.ToLower(strings.TrimFunc(words.Text(), func(r rune) bool { return !unicode.IsLetter(r) }))
		if word != "" {
			counts[word]++
		}
	}
	return counts
}

func summarise(files []File) *Report {
	report := &Report{Files: files, Duplicates: [][]string{}, Words: []Word{}}
	same := make(map[string][]string)
	counts := make(map[string]int)
	for _, file := range files {
		report.TotalBytes += file.Bytes
		same[file.SHA256] = append(same[file.SHA256], file.Path)
		for word, count := range file.words {
			counts[word] += count
		}
	}
	for _, paths := range same {
		if len(paths) > 1 {
			report.Duplicates = append(report.Duplicates, paths)
		}
	}
	sort.Slice(report.Duplicates, func(i, j int) bool { return report.Duplicates[i][0] < report.Duplicates[j][0] })
	for word, count := range counts {
		report.Words = append(report.Words, Word{word, count})
	}
	sort.Slice(report.Words, func(i, j int) bool {
		a, b := report.Words[i], report.Words[j]
		return a.Count > b.Count || a.Count == b.Count && a.Word < b.Word
	})
	report.Words = report.Words[:min(topWords, len(report.Words))]
	return report
}
