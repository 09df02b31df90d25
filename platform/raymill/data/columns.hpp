/* One column chunk of numbers, page after page, to float32 in its places of a matrix.

   A matrix is in blocks of rows, and a block holds column after column until `weave` makes rows of it
   (kernels.c): so a page is decoded straight to where its values belong, piece by piece in the cache,
   and no column is ever held whole. */

#pragma once

#include <memory>
#include <optional>

#include <arrow/util/compression.h>

#include "pages.hpp"

namespace columns {

using pages::Broken;
using pages::Header;

enum Kind { FLOAT, DOUBLE, INT32, UINT32, INT64, UINT64, BOOL };
enum Codec { UNCOMPRESSED, SNAPPY, GZIP, BROTLI, ZSTD, LZ4, CODECS };

constexpr int64_t PIECE = 1024; /* values: the scratch of one stays in a core's first cache */

struct Chunk {
    int64_t position, bytes, span_end; /* in the file; where the bytes that are read with it end */
    int64_t codec, kind, nullable, values;
    int64_t matrix, first; /* 0 for the numbers, 1 for the labels; place in its rows */
};

struct Matrix {
    float *values;
    int64_t rows, places, block_rows;
};

/* Rows [start, stop), or those numbered in `pick`, which rises. */
struct Selection {
    int64_t start, stop;
    const int64_t *pick;
    int64_t picks;
};

/* A buffer that grows, is not cleared, and has readable bytes after its end. */
class Scratch {
  public:
    /* Returns room for `bytes` bytes, of which the first are the `held` at `from`, also of this buffer. */
    uint8_t *room(int64_t bytes, const uint8_t *from = nullptr, int64_t held = 0) {
        auto old = std::move(data_);
        if (bytes > size_) {
            size_ = -1;
            data_ = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(bytes + pages::PAD));
            size_ = bytes;
        } else {
            data_ = std::move(old);
        }
        if (held) std::memmove(data_.get(), from, static_cast<size_t>(held));
        std::memset(data_.get() + bytes, 0, pages::PAD);
        return data_.get();
    }

  private:
    std::unique_ptr<uint8_t[]> data_;
    int64_t size_ = -1;
};

/* Arrow's decompressors. Theirs of zstd is kept: a context costs 15 us, as much as decoding 4,000 values. */
class Codecs {
  public:
    void decompress(int64_t codec, const uint8_t *from, int64_t bytes, uint8_t *to, int64_t whole) {
        if (codec <= UNCOMPRESSED || codec >= CODECS) throw Broken("a page's compression is unknown");
        auto &made = made_[codec];
        if (!made) made = value(arrow::util::Codec::Create(TYPES[codec]));
        if (codec != ZSTD) {
            expect(value(made->Decompress(bytes, from, whole, to)), whole);
            return;
        }
        if (!zstd_) zstd_ = value(made->MakeDecompressor());
        arrow::Status status = zstd_->Reset();
        if (!status.ok()) throw Broken(status.message());
        int64_t written = 0;
        while (written < whole || bytes) {
            auto part = value(zstd_->Decompress(bytes, from, whole - written, to + written));
            if (!part.bytes_read && !part.bytes_written) break;
            from += part.bytes_read, bytes -= part.bytes_read, written += part.bytes_written;
        }
        expect(bytes ? -1 : written, whole);
    }

  private:
    template <typename T> static T value(arrow::Result<T> result) {
        if (!result.ok()) throw Broken(result.status().message());
        return std::move(result).ValueUnsafe();
    }

    static void expect(int64_t found, int64_t whole) {
        if (found != whole) throw Broken("a page decompresses to another size than its header says");
    }

    using Type = arrow::Compression;
    static constexpr Type::type TYPES[CODECS] = {Type::UNCOMPRESSED, Type::SNAPPY, Type::GZIP,
                                                 Type::BROTLI,       Type::ZSTD,   Type::LZ4};
    std::unique_ptr<arrow::util::Codec> made_[CODECS];
    std::shared_ptr<arrow::util::Decompressor> zstd_;
};

template <typename T> void convert(const uint8_t *from, int64_t count, float *to) {
    for (int64_t i = 0; i < count; i++) {
        T value;
        std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
        to[i] = static_cast<float>(value);
    }
}

inline int64_t bytes_of(int64_t kind) { return kind == FLOAT || kind == INT32 || kind == UINT32 ? 4 : 8; }

inline void convert(int64_t kind, const uint8_t *from, int64_t count, float *to) {
    switch (kind) {
    case FLOAT: std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float)); return;
    case DOUBLE: convert<double>(from, count, to); return;
    case INT32: convert<int32_t>(from, count, to); return;
    case UINT32: convert<uint32_t>(from, count, to); return;
    case INT64: convert<int64_t>(from, count, to); return;
    case UINT64: convert<uint64_t>(from, count, to); return;
    default: throw Broken("a column is of a type that is not read here");
    }
}

/* The values of one page, in order. */
class Values {
  public:
    Values(int64_t kind, int64_t encoding, const uint8_t *from, const uint8_t *end, const float *entries,
           int64_t count)
        : kind_(kind), at_(from), end_(end), entries_(entries), count_(count) {
        if (encoding == pages::PLAIN) {
            way_ = kind == BOOL ? BITS : PLAIN;
        } else if (encoding == pages::RLE_DICTIONARY || encoding == pages::PLAIN_DICTIONARY) {
            if (!entries) throw Broken("a page refers to a dictionary that is not there");
            way_ = INDICES;
            hybrid_ = from == end ? pages::Hybrid(from, end, 0) : pages::Hybrid(from + 1, end, *from);
        } else if (encoding == pages::RLE && kind == BOOL) {
            way_ = RUNS;
            uint32_t bytes;
            if (end - from < 4) throw Broken("a page ends before its values");
            std::memcpy(&bytes, from, 4);
            hybrid_ = pages::Hybrid(from + 4, from + 4 + std::min<int64_t>(bytes, end - from - 4), 1);
        } else {
            throw Broken("a page has another encoding than its column declares");
        }
    }

    void take(int64_t count, float *to) {
        if (way_ == PLAIN) {
            int64_t bytes = count * bytes_of(kind_);
            if (bytes > end_ - at_) throw Broken("a page ends before its values");
            convert(kind_, at_, count, to);
            at_ += bytes;
        } else if (way_ == BITS) {
            if (bit_ + count > (end_ - at_) * 8) throw Broken("a page ends before its values");
            pages::unpack(at_ + (bit_ >> 3), static_cast<int>(bit_ & 7), 1, count,
                          [&](int64_t i, uint32_t number) { to[i] = static_cast<float>(number); });
            bit_ += count;
        } else {
            take_runs(count, to);
        }
    }

  private:
    void take_runs(int64_t count, float *to) {
        static constexpr float BITS_ARE[2] = {0, 1};
        const float *entries = way_ == RUNS ? BITS_ARE : entries_;
        uint32_t limit = static_cast<uint32_t>(way_ == RUNS ? 2 : count_), largest = 0;
        if (!limit && count) throw Broken("a page refers to an empty dictionary");
        hybrid_.take(
            count,
            [&](uint32_t number, int64_t n) {
                largest = std::max(largest, number);
                std::fill_n(to, n, entries[number < limit ? number : 0]);
                to += n;
            },
            [&](const uint8_t *from, int bit, int64_t n) {
                pages::unpack(from, bit, hybrid_.width(), n, [&](int64_t i, uint32_t number) {
                    largest = std::max(largest, number);
                    to[i] = entries[number < limit ? number : 0];
                });
                to += n;
            });
        if (count && largest >= limit) throw Broken("a page refers to an entry that its dictionary lacks");
    }

    enum { PLAIN, BITS, INDICES, RUNS } way_;
    int64_t kind_;
    const uint8_t *at_, *end_;
    const float *entries_;
    int64_t count_, bit_ = 0;
    pages::Hybrid hybrid_;
};

/* Which values of a page are there: all, or those whose level is one. */
class Levels {
  public:
    Levels() = default;
    explicit Levels(pages::Hybrid hybrid) : hybrid_(hybrid) {}

    /* Takes `count` values of `values` into `to`, with `fill` for a null; returns the nulls, and where
       there are any, which values are there. */
    int64_t take(Values &values, int64_t count, float *to, float fill, uint8_t *there) {
        if (!hybrid_ || hybrid_->all(count, 1)) {
            values.take(count, to);
            return 0;
        }
        int64_t known = 0, found = 0;
        hybrid_->take(
            count,
            [&](uint32_t level, int64_t n) {
                if (level > 1) throw Broken("a page has a level that its column does not");
                std::memset(there + known, static_cast<int>(level), static_cast<size_t>(n));
                known += n, found += level ? n : 0;
            },
            [&](const uint8_t *from, int bit, int64_t n) {
                pages::unpack(from, bit, 1, n, [&](int64_t i, uint32_t level) {
                    there[known + i] = static_cast<uint8_t>(level);
                    found += level;
                });
                known += n;
            });
        values.take(found, to);
        for (int64_t i = count, j = found; i > 0; i--) to[i - 1] = there[i - 1] ? to[--j] : fill;
        return count - found;
    }

  private:
    std::optional<pages::Hybrid> hybrid_;
};

/* Writes rows of a column that come in order to the places that a selection gives them. */
class Sink {
  public:
    Sink(const Matrix &matrix, int64_t first, const Selection &selection)
        : matrix_(matrix), first_(first), selection_(selection) {}

    /* Whether rows [row, row + count) hold one that is selected. */
    bool wants(int64_t row, int64_t count) const {
        if (!selection_.pick) return row < selection_.stop && row + count > selection_.start;
        return done_ < selection_.picks && selection_.pick[done_] < row + count;
    }

    bool full() const { return done_ == matrix_.rows; }

    /* Returns where the next rows may be decoded to at once, null for nowhere; lowers `count` to as many. */
    float *straight(int64_t row, int64_t &count) {
        if (selection_.pick) return nullptr;
        bool before = row < selection_.start;
        count = std::min(count, (before ? selection_.start : selection_.stop) - row);
        if (before) return nullptr;
        return run(count);
    }

    void advance(int64_t count) { done_ += count; }

    /* Copies those of the rows [row, row + count) that are picked; returns how many of them are not there. */
    int64_t copy(const float *from, int64_t row, int64_t count, const uint8_t *there) {
        int64_t nulls = 0;
        for (; done_ < selection_.picks && selection_.pick[done_] < row + count; done_++) {
            int64_t one = 1, place = selection_.pick[done_] - row;
            if (place < 0) throw Broken("the rows to read must rise");
            *run(one) = from[place];
            nulls += there && !there[place];
        }
        return nulls;
    }

  private:
    float *run(int64_t &count) const {
        int64_t block = done_ / matrix_.block_rows, start = block * matrix_.block_rows;
        int64_t rows = std::min(matrix_.block_rows, matrix_.rows - start);
        count = std::min(count, start + rows - done_);
        return matrix_.values + start * matrix_.places + first_ * rows + (done_ - start);
    }

    Matrix matrix_;
    int64_t first_;
    Selection selection_;
    int64_t done_ = 0;
};

} // namespace columns
