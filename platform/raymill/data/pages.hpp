/* Pages of a Parquet file: their headers, their levels, their values. Bytes are not trusted: each read is
   checked against the end of what there is, and what breaks a rule of the format throws Broken.

   https://parquet.apache.org/docs/file-format/ and, for the headers, Thrift's compact protocol. */

#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace pages {

static_assert(std::endian::native == std::endian::little, "Parquet is little-endian, and read as it lies");

constexpr int64_t PAD = 16; /* readable bytes after every run of bits: eight values are loaded at once */

struct Broken : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/* Thrown where bytes end too soon, which more of the file may mend. */
struct Short {};

enum Encoding { PLAIN = 0, PLAIN_DICTIONARY = 2, RLE = 3, BIT_PACKED = 4, RLE_DICTIONARY = 8 };
enum PageType { DATA = 0, INDEX = 1, DICTIONARY = 2, DATA_V2 = 3 };

struct Header {
    int64_t type = -1, whole = -1, stored = -1; /* bytes of the page, decompressed and in the file */
    int64_t values = -1, encoding = -1, level_encoding = RLE, level_bytes = 0, repeat_bytes = 0;
    bool compressed = true;
    int64_t header_bytes = 0;
};

/* Thrift's compact protocol, as much of it as page headers need. */
class Compact {
  public:
    Compact(const uint8_t *from, const uint8_t *end) : at_(from), end_(end) {}

    const uint8_t *at() const { return at_; }

    uint8_t byte() {
        if (at_ == end_) throw Short();
        return *at_++;
    }

    uint64_t varint() {
        uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            uint8_t next = byte();
            value |= static_cast<uint64_t>(next & 0x7f) << shift;
            if (next < 0x80) return value;
        }
        throw Broken("a page header has a number of more than 64 bits");
    }

    int64_t integer() {
        uint64_t raw = varint();
        return static_cast<int64_t>(raw >> 1) ^ -static_cast<int64_t>(raw & 1);
    }

    /* Calls `take(field, type)` for each field of a struct; it returns whether it read the field. */
    template <typename Take> void fields(Take take, int depth = 0) {
        int64_t field = 0;
        for (uint8_t head = byte(); head != 0; head = byte()) {
            field = head >> 4 ? field + (head >> 4) : integer();
            if (!take(field, head & 15)) skip(head & 15, depth);
        }
    }

  private:
    void pass(uint64_t bytes) {
        if (bytes > static_cast<uint64_t>(end_ - at_)) throw Short();
        at_ += bytes;
    }

    void skip(int type, int depth) {
        if (depth > 8) throw Broken("a page header is nested too deeply");
        switch (type) {
        case 1: case 2: return; /* a boolean is in its field's head */
        case 3: pass(1); return;
        case 4: case 5: case 6: varint(); return;
        case 7: pass(8); return;
        case 8: pass(varint()); return;
        case 9: case 10: {
            uint8_t head = byte();
            uint64_t count = head >> 4 == 15 ? varint() : head >> 4;
            for (int item = head & 15; count; count--) item < 3 ? pass(1) : skip(item, depth + 1);
            return;
        }
        case 12: fields([](int64_t, int) { return false; }, depth + 1); return;
        default: throw Broken("a page header has a field of an unknown kind");
        }
    }

    const uint8_t *at_, *end_;
};

/* Reads the header at `from`; throws Short where it goes on after `end`. */
inline Header read_header(const uint8_t *from, const uint8_t *end) {
    Header header;
    Compact in(from, end);
    auto number = [&](int64_t &place, int type) {
        if (type < 4 || type > 6) throw Broken("a page header has a number of an unknown kind");
        place = in.integer();
        return true;
    };
    auto data = [&](int64_t field, int type) {
        if (field == 1) return number(header.values, type);
        if (field == 2) return number(header.encoding, type);
        return field == 3 && header.type == DATA && number(header.level_encoding, type);
    };
    auto data_v2 = [&](int64_t field, int type) {
        if (field == 7) return header.compressed = type == 1, false;
        int64_t *places[] = {nullptr, &header.values, nullptr, nullptr,
                             &header.encoding, &header.level_bytes, &header.repeat_bytes};
        return field > 0 && field < 7 && places[field] && number(*places[field], type);
    };
    in.fields([&](int64_t field, int type) {
        if (field == 1) return number(header.type, type);
        if (field == 2) return number(header.whole, type);
        if (field == 3) return number(header.stored, type);
        if (type != 12 || (field != 5 && field != 7 && field != 8)) return false;
        return field == 8 ? in.fields(data_v2, 1) : in.fields(data, 1), true;
    });
    header.header_bytes = in.at() - from;
    constexpr int64_t most = INT32_MAX;
    if (header.stored < 0 || header.whole < 0 || header.stored > most || header.whole > most ||
        header.level_bytes < 0 || header.repeat_bytes < 0 || header.level_bytes > most || header.repeat_bytes > most)
        throw Broken("a page header has no valid size");
    bool holds_values = header.type == DATA || header.type == DATA_V2 || header.type == DICTIONARY;
    if (holds_values && (header.values < 0 || header.values > most))
        throw Broken("a page header has no valid number of values");
    return header;
}

/* Numbers of `width` bits, packed or repeated (RLE, also of levels and of dictionary indices). */
class Hybrid {
  public:
    Hybrid() = default;
    Hybrid(const uint8_t *from, const uint8_t *end, int width) : at_(from), end_(end), width_(width) {
        if (width < 0 || width > 32) throw Broken("a page packs its numbers in more than 32 bits");
    }

    /* Gives the next `count` numbers to `repeat(value, n)` and `packed(bytes, bit, n)`, run by run. */
    template <typename Repeat, typename Packed> void take(int64_t count, Repeat repeat, Packed packed) {
        while (count) {
            if (!left_) next();
            int64_t n = std::min(count, left_);
            if (is_packed_) {
                packed(at_ + (bit_ >> 3), static_cast<int>(bit_ & 7), n);
                bit_ += n * width_;
                if (n == left_) at_ = run_end_;
            } else {
                repeat(value_, n);
            }
            left_ -= n;
            count -= n;
        }
    }

    int width() const { return width_; }

    /* Whether the next `count` numbers are all `value`, told from one run; takes them if so. */
    bool all(int64_t count, uint32_t value) {
        if (!left_ && count) next();
        if (is_packed_ || left_ < count || value_ != value) return false;
        left_ -= count;
        return true;
    }

  private:
    void next() {
        uint64_t head = 0;
        for (int shift = 0;; shift += 7) {
            if (at_ == end_ || shift > 56) throw Broken("a page ends in the middle of its numbers");
            head |= static_cast<uint64_t>(*at_ & 0x7f) << shift;
            if (*at_++ < 0x80) break;
        }
        is_packed_ = head & 1;
        int64_t bytes = end_ - at_;
        if (is_packed_) {
            uint64_t groups = std::min<uint64_t>(head >> 1, INT32_MAX);
            int64_t wanted = static_cast<int64_t>(groups) * width_;
            left_ = static_cast<int64_t>(groups) * 8;
            if (wanted > bytes) { /* the last group may be cut where its numbers end */
                left_ = bytes * 8 / width_;
                wanted = bytes;
            }
            run_end_ = at_ + wanted;
            bit_ = 0;
        } else {
            int64_t stored = (width_ + 7) / 8;
            if (stored > bytes) throw Broken("a page ends in the middle of its numbers");
            value_ = 0;
            std::memcpy(&value_, at_, static_cast<size_t>(stored));
            at_ += stored;
            left_ = static_cast<int64_t>(std::min<uint64_t>(head >> 1, INT32_MAX));
        }
        if (!left_) throw Broken("a page has an empty run of numbers");
    }

    const uint8_t *at_ = nullptr, *end_ = nullptr, *run_end_ = nullptr;
    int width_ = 0;
    bool is_packed_ = false;
    int64_t left_ = 0, bit_ = 0;
    uint32_t value_ = 0;
};

/* Calls `put(i, number)` for numbers 0 to `count` - 1, packed from bit `bit` of `from` on. */
template <typename Put> void unpack(const uint8_t *from, int bit, int width, int64_t count, Put put) {
    if (width == 16 && bit == 0) {
        for (int64_t i = 0; i < count; i++) {
            uint16_t number;
            std::memcpy(&number, from + 2 * i, 2);
            put(i, static_cast<uint32_t>(number));
        }
        return;
    }
    uint64_t mask = (uint64_t{1} << width) - 1;
    for (int64_t i = 0, at = bit; i < count; i++, at += width) {
        uint64_t word;
        std::memcpy(&word, from + (at >> 3), 8);
        put(i, static_cast<uint32_t>(word >> (at & 7) & mask));
    }
}

} // namespace pages
