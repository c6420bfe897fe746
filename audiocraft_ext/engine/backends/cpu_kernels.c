/* CPU kernels of one decoding step: matrix products of a few rows, attention over a cache, norm and rotary.

   script/compile-kernels compiles this file to cpu_kernels.ll, and llvm_jit.py that for the host's processor. Every
   thread of an OpenMP team calls a kernel with a pointer to its arguments. cpu_kernels.py is the interface.

   Batch- and thread-invariant: threads share out outputs, rows or heads, never a sum, and every sum is reduced in an
   order that depends on its length alone. The compiler keeps that order: no fast-math, and only fma() is fused. So a
   row has the same bits alone and in a batch, on any number of threads.

   A vector has 16 lanes on every processor; LLVM splits it where registers are shorter. */

#include <stdint.h>

/* Specialisation constants, defined by llvm_jit.py when it compiles a kernel: loops over them are unrolled, branches on
   them decided, and arrays of their size become registers. */
extern const int64_t N_ROWS;       /* matmul: rows of x, up to MAX_ROWS */
extern const int64_t N_OUTPUTS;    /* matmul: outputs summed at a time, 1 or 2 */
extern const int64_t N_COLUMNS;    /* matmul: inputs per iteration */
extern const int64_t X_IS_INT16;   /* matmul, pack_rows: x is int16 and weight int8; else x is fp32 */
extern const int64_t IS_INT8;      /* matmul: weight is int8, else fp32; attention: the cache is, else fp32 */
extern const int64_t ADDS;         /* matmul: to y, which is a residual */
extern const int64_t HAS_GELU;     /* matmul: of the outputs, a multiple of LANES */
extern const int64_t N_SPINS;      /* replay: looks at a barrier before a thread sleeps */
extern const int64_t HEAD_WIDTH;   /* apply_rotary, attention: a multiple of LANES */

enum { LANES = 16, CACHE_LINE = 64, MAX_ROWS = 8, MAX_SUMS = 16 };

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("clang loop unroll(full)")
#define VECTOR(type, n) type __attribute__((ext_vector_type(n)))

typedef VECTOR(float, 16) f32x16;
typedef VECTOR(int32_t, 16) i32x16;
typedef VECTOR(int16_t, 16) i16x16;
typedef VECTOR(int8_t, 16) i8x16;
typedef VECTOR(int16_t, 32) i16x32;
typedef VECTOR(int8_t, 32) i8x32;
typedef VECTOR(int32_t, 32) i32x32;

int omp_get_thread_num(void);
int omp_get_num_threads(void);
int pthread_mutex_lock(void *mutex);
int pthread_mutex_unlock(void *mutex);
int pthread_cond_wait(void *condition, void *mutex);
int pthread_cond_broadcast(void *condition);

/* This thread's part of n work items. */
INLINE void thread_range(int64_t n, int64_t *first, int64_t *stop) {
    int64_t thread = omp_get_thread_num(), n_threads = omp_get_num_threads();
    *first = n * thread / n_threads;
    *stop = n * (thread + 1) / n_threads;
}

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Into the second-level cache: more lines can be on their way there than to the first level. The address may lie past
   the end of an array, where a pointer may not point; hence the integers. */
INLINE void prefetch(const void *base, int64_t offset, int64_t n_bytes) {
    UNROLL for (int64_t i = 0; i < n_bytes; i += CACHE_LINE)
        __builtin_prefetch((const void *)((uintptr_t)base + offset + i), 0, 2);
}

/* ---- Vectors ---- */

/* Unaligned loads and stores. */
#define LOAD(type, address) (((const struct { type lanes; } __attribute__((packed)) *)(address))->lanes)
#define STORE(type, address, value) (((struct { type lanes; } __attribute__((packed)) *)(address))->lanes = (value))

INLINE f32x16 load(const float *address) { return LOAD(f32x16, address); }
INLINE f32x16 load_int8(const int8_t *address) { return __builtin_convertvector(LOAD(i8x16, address), f32x16); }
INLINE void store(float *address, f32x16 x) { STORE(f32x16, address, x); }

INLINE f32x16 splat(float x) { return (f32x16)(x); }
INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return __builtin_elementwise_fma(a, b, c); }
INLINE f32x16 magnitude(f32x16 x) { return __builtin_elementwise_abs(x); }

/* The second if either is NaN. */
INLINE f32x16 larger(f32x16 a, f32x16 b) { return a > b ? a : b; }

/* One level of a reduction tree over the vectors a and b: of each of their groups of 2 n lanes the two halves. */
#define LOWER_8(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define UPPER_8(a, b) __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
#define LOWER_4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define UPPER_4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#define LOWER_2(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29)
#define UPPER_2(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31)
#define LOWER_1(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define UPPER_1(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)

/* Horizontal sum and maximum. */
INLINE float hsum(f32x16 x) {
    x = LOWER_8(x, x) + UPPER_8(x, x);
    x = LOWER_4(x, x) + UPPER_4(x, x);
    x = LOWER_2(x, x) + UPPER_2(x, x);
    return (LOWER_1(x, x) + UPPER_1(x, x))[0];
}

INLINE float hmax(f32x16 x) {
    x = larger(LOWER_8(x, x), UPPER_8(x, x));
    x = larger(LOWER_4(x, x), UPPER_4(x, x));
    x = larger(LOWER_2(x, x), UPPER_2(x, x));
    return larger(LOWER_1(x, x), UPPER_1(x, x))[0];
}

/* Lane i is hsum(x[i]), with the same bits, for i < n; x[n] to x[15] are zeros, whose sums cost nothing. Overwrites x. */
INLINE f32x16 hsum_16(f32x16 *x) {
    UNROLL for (int64_t i = 0; i < 8; i++) x[i] = LOWER_8(x[2 * i], x[2 * i + 1]) + UPPER_8(x[2 * i], x[2 * i + 1]);
    UNROLL for (int64_t i = 0; i < 4; i++) x[i] = LOWER_4(x[2 * i], x[2 * i + 1]) + UPPER_4(x[2 * i], x[2 * i + 1]);
    UNROLL for (int64_t i = 0; i < 2; i++) x[i] = LOWER_2(x[2 * i], x[2 * i + 1]) + UPPER_2(x[2 * i], x[2 * i + 1]);
    return LOWER_1(x[0], x[1]) + UPPER_1(x[0], x[1]);
}

/* Nearest integers, ties to even, of |x| < 2^22, as the last bits of a sum whose first bits are known; NaN gives any.
   LLVM converts with saturation lane by lane. */
INLINE i32x16 round_to_int(f32x16 x) {
    f32x16 offset = splat(0x1.8p23f);
    return (i32x16)(x + offset) - (i32x16)offset;
}

/* Symmetric quantisation step of a vector of magnitudes, and its reciprocal. `zeros` are the numbers times 0: they make
   the step NaN if one is not finite. */
INLINE float quant_step(f32x16 magnitudes, f32x16 zeros, float largest, f32x16 *reciprocal) {
    float top = hmax(magnitudes);
    *reciprocal = splat(largest / (top > 1e-30f ? top : 1e-30f));
    return top / largest + hsum(zeros);
}

/* e^x within 2e-7 for x <= 0: 2^n times a polynomial of the rest. NaN stays NaN. */
INLINE f32x16 exp_f32(f32x16 x) {
    x = x < -87.0f ? splat(-87.0f) : x;
    f32x16 n = __builtin_elementwise_rint(x * (float)1.4426950408889634);
    f32x16 rest = fma(n, splat(2.12194440e-4), fma(n, splat(-0.693359375), x));
    f32x16 y = splat(1.0 / 5040);
    y = fma(y, rest, splat(1.0 / 720));
    y = fma(y, rest, splat(1.0 / 120));
    y = fma(y, rest, splat(1.0 / 24));
    y = fma(y, rest, splat(1.0 / 6));
    y = fma(y, rest, splat(0.5));
    y = fma(y, rest, splat(1.0));
    y = fma(y, rest, splat(1.0));
    return y * (f32x16)((round_to_int(n) + 127) << 23);
}

/* The error function within 2e-7: Abramowitz and Stegun, formula 7.1.26. */
INLINE f32x16 erf_f32(f32x16 x) {
    f32x16 size = magnitude(x), t = 1.0f / fma(size, splat(0.3275911), splat(1.0));
    f32x16 y = splat(1.061405429);
    y = fma(y, t, splat(-1.453152027));
    y = fma(y, t, splat(1.421413741));
    y = fma(y, t, splat(-0.284496736));
    y = fma(y, t, splat(0.254829592));
    return __builtin_elementwise_copysign(1.0f - y * t * exp_f32(-(size * size)), x);
}

/* Exact, within 1e-6. */
INLINE f32x16 gelu(f32x16 x) {
    f32x16 half = x * 0.5f;
    return fma(half, erf_f32(x * (float)0.7071067811865476), half);
}

/* ---- Norm, rotary ---- */

/* out = layer_norm(x), row by row. */
struct norm_args {
    const float *x, *weight, *bias;
    float *out;
    int64_t n_rows, width;
    double eps;
};

void norm(const struct norm_args *args) {
    int64_t width = args->width, first, stop;
    thread_range(args->n_rows, &first, &stop);
    for (int64_t row = first; row < stop; row++) {
        const float *x = args->x + row * width;
        float *out = args->out + row * width;
        f32x16 total = splat(0), square = splat(0);
        for (int64_t i = 0; i < width; i += LANES) total += load(x + i);
        f32x16 mean = splat(hsum(total) / (float)width);
        for (int64_t i = 0; i < width; i += LANES) {
            f32x16 distance = load(x + i) - mean;
            square = fma(distance, distance, square);
        }
        float variance = hsum(square) / (float)width + (float)args->eps;
        f32x16 factor = splat(1.0f / __builtin_elementwise_sqrt(variance));
        for (int64_t i = 0; i < width; i += LANES) {
            f32x16 normed = (load(x + i) - mean) * factor;
            store(out + i, fma(normed, load(args->weight + i), load(args->bias + i)));
        }
    }
}

/* Queries and keys of qkv [rows, 3, heads, HEAD_WIDTH], as complex numbers, times factors [rows, HEAD_WIDTH / 2]. */
struct apply_rotary_args {
    float *qkv;
    const float *factors;
    int64_t n_rows, n_heads;
};

void apply_rotary(const struct apply_rotary_args *args) {
    const f32x16 signs = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
    int64_t per_row = 2 * args->n_heads, first, stop;
    thread_range(args->n_rows * per_row, &first, &stop);
    for (int64_t item = first; item < stop; item++) {
        int64_t row = item / per_row, head = item % per_row;
        float *qkv = args->qkv + (row * 3 * args->n_heads + head) * HEAD_WIDTH;
        const float *factors = args->factors + row * HEAD_WIDTH;
        UNROLL for (int64_t i = 0; i < HEAD_WIDTH; i += LANES) {
            f32x16 x = load(qkv + i), factor = load(factors + i);
            f32x16 real = __builtin_shufflevector(factor, factor, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
            f32x16 imag = __builtin_shufflevector(factor, factor, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15);
            f32x16 swapped = __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
            store(qkv + i, fma(x, real, swapped * signs * imag));
        }
    }
}

/* ---- Matrix products ---- */

/* Rows are multiplied in pieces of PIECE_BYTES, eight of which fit the first-level cache, by GROUP outputs' weights in
   turn, while as many weights behind these are prefetched. */
enum { PIECE_BYTES = 2048, GROUP = 16, INT16_MAX_VALUE = 32767 };

/* Packs rows [rows, in] as [in / lanes, rows, lanes] and gives each row's quantisation step [rows], which is 1 in fp32.
   Unpacked rows conflict in cache sets: their stride is a power of two. */
struct pack_rows_args {
    const float *x;
    void *packed;
    float *steps;
    int64_t n_rows, width;
};

void pack_rows(const struct pack_rows_args *args) {
    int64_t width = args->width, lanes = X_IS_INT16 ? 2 * LANES : LANES, first, stop;
    thread_range(args->n_rows, &first, &stop);
    for (int64_t row = first; row < stop; row++) {
        const float *x = args->x + row * width;
        f32x16 reciprocal = splat(1), top = splat(0), zeros = splat(0);
        float step = 1;
        if (X_IS_INT16) {
            for (int64_t i = 0; i < width; i += LANES) {
                top = larger(top, magnitude(load(x + i)));
                zeros = fma(load(x + i), splat(0), zeros);
            }
            step = quant_step(top, zeros, INT16_MAX_VALUE, &reciprocal);
        }
        args->steps[row] = step;
        for (int64_t i = 0; i < width; i += LANES) {
            int64_t to = i / lanes * lanes * args->n_rows + row * lanes + i % lanes;
            if (X_IS_INT16) {
                i16x16 quantised = __builtin_convertvector(round_to_int(load(x + i) * reciprocal), i16x16);
                STORE(i16x16, (int16_t *)args->packed + to, quantised);
            } else {
                store((float *)args->packed + to, load(x + i));
            }
        }
    }
}

/* y [N_ROWS, out] = packed rows times weight [out, in], times steps [N_ROWS] and scale [out], plus bias [out]; or its GELU,
   or added to what y is. */
struct matmul_args {
    const void *packed;
    const float *steps;
    const void *weight;
    const float *scale, *bias;
    float *y;
    int64_t n_outputs, n_inputs;
};

/* sum + the products of neighbouring int16 pairs, added up in int32: vpdpwssd. */
INLINE i32x16 dot_int16(i32x16 sum, i16x32 x, i8x32 weight) {
    i32x32 products = __builtin_convertvector(x, i32x32) * __builtin_convertvector(weight, i32x32);
    return products.even + products.odd + sum;
}

/* Adds to sums [N_ROWS, N_OUTPUTS] the products of inputs k to k + N_COLUMNS. */
INLINE void add_products_f32(f32x16 *sums, const float *x, const char *weight, int64_t row_bytes) {
    UNROLL for (int64_t i = 0; i < N_COLUMNS; i += LANES) {
        f32x16 w[2];
        UNROLL for (int64_t j = 0; j < N_OUTPUTS; j++)
            w[j] = IS_INT8 ? load_int8((const int8_t *)weight + j * row_bytes + i)
                           : load((const float *)(weight + j * row_bytes) + i);
        UNROLL for (int64_t sum = 0; sum < N_ROWS * N_OUTPUTS; sum++)
            sums[sum] = fma(load(x + i * N_ROWS + sum / N_OUTPUTS * LANES), w[sum % N_OUTPUTS], sums[sum]);
    }
}

/* Row by row, so that processors of 16 registers load and store each sum once. */
INLINE void add_products_int16(f32x16 *sums, const int16_t *x, const char *weight, int64_t row_bytes) {
    UNROLL for (int64_t sum = 0; sum < N_ROWS * N_OUTPUTS; sum++) {
        i32x16 total = (i32x16)sums[sum];
        UNROLL for (int64_t i = 0; i < N_COLUMNS; i += 2 * LANES)
            total = dot_int16(total, LOAD(i16x32, x + i * N_ROWS + sum / N_OUTPUTS * 2 * LANES),
                              LOAD(i8x32, weight + sum % N_OUTPUTS * row_bytes + i));
        sums[sum] = (f32x16)total;
    }
}

/* The same, of inputs from start to stop and outputs from `output` on. */
INLINE void add_products(f32x16 *sums, const struct matmul_args *args, int64_t output, int64_t start, int64_t stop) {
    const int64_t weight_bytes = IS_INT8 ? 1 : 4, row_bytes = args->n_inputs * weight_bytes;
    const char *weights = (const char *)args->weight + output * row_bytes;
    for (int64_t k = start; k < stop; k += N_COLUMNS) {
        const char *weight = weights + k * weight_bytes;
        if (X_IS_INT16)
            add_products_int16(sums, (const int16_t *)args->packed + k * N_ROWS, weight, row_bytes);
        else
            add_products_f32(sums, (const float *)args->packed + k * N_ROWS, weight, row_bytes);
        UNROLL for (int64_t j = 0; j < N_OUTPUTS; j++)
            prefetch(weight, (j + GROUP) * row_bytes, N_COLUMNS * weight_bytes);
    }
}

/* Reduces all sums at once and stores N_OUTPUTS numbers in each row of y. */
INLINE void store_outputs(f32x16 *sums, f32x16 steps, const struct matmul_args *args, int64_t output) {
    f32x16 lanes[MAX_SUMS] = {};
    UNROLL for (int64_t i = 0; i < N_ROWS * N_OUTPUTS; i++)
        lanes[i] = X_IS_INT16 ? __builtin_convertvector((i32x16)sums[i], f32x16) : sums[i];
    /* Even lanes are of the first output, odd ones of the last. */
    int64_t last = output + N_OUTPUTS - 1;
    f32x16 scale, bias;
    scale.even = args->scale[output], scale.odd = args->scale[last];
    bias.even = args->bias[output], bias.odd = args->bias[last];
    f32x16 y = hsum_16(lanes) * steps * scale + bias;
    UNROLL for (int64_t row = 0; row < N_ROWS; row++)
        UNROLL for (int64_t j = 0; j < N_OUTPUTS; j++) {
            float *out = args->y + row * args->n_outputs + output + j;
            *out = ADDS ? *out + y[row * N_OUTPUTS + j] : y[row * N_OUTPUTS + j];
        }
}

void matmul(const struct matmul_args *given) {
    const struct matmul_args args = *given; /* in registers: no store can change them */
    const int64_t n_sums = N_ROWS * N_OUTPUTS, n_blocks = GROUP / N_OUTPUTS, piece = PIECE_BYTES / (X_IS_INT16 ? 2 : 4);
    int64_t n_inputs = args.n_inputs, first, stop;
    f32x16 saved[GROUP * MAX_ROWS], steps = splat(1);
    UNROLL for (int64_t i = 0; i < n_sums; i++) steps[i] = args.steps[i / N_OUTPUTS];
    thread_range(args.n_outputs / (HAS_GELU ? GROUP : N_OUTPUTS), &first, &stop);
    if (HAS_GELU) first *= n_blocks, stop *= n_blocks;
    for (int64_t group = first; group < stop; group += n_blocks) {
        for (int64_t start = 0; start < n_inputs; start += piece) {
            for (int64_t block = group; block < smaller(group + n_blocks, stop); block++) {
                f32x16 sums[MAX_SUMS], *own = saved + (block - group) * n_sums;
                UNROLL for (int64_t i = 0; i < n_sums; i++) sums[i] = start > 0 ? own[i] : splat(0);
                add_products(sums, &args, block * N_OUTPUTS, start, smaller(start + piece, n_inputs));
                if (start + piece < n_inputs)
                    UNROLL for (int64_t i = 0; i < n_sums; i++) own[i] = sums[i];
                else
                    store_outputs(sums, steps, &args, block * N_OUTPUTS);
            }
        }
        if (HAS_GELU) /* of a whole vector at a time */
            UNROLL for (int64_t row = 0; row < N_ROWS; row++) {
                float *y = args.y + row * args.n_outputs + group * N_OUTPUTS;
                store(y, gelu(load(y)));
            }
    }
}

/* ---- Attention ---- */

/* Attention of one position per row and head, over keys and values [cache rows, heads, positions, head_bytes()]. */
struct attention_args {
    const float *query; /* [rows, heads, HEAD_WIDTH], rows query_stride apart */
    const float *added; /* new keys and, one row of heads behind, values: each row's last position; or null */
    char *keys, *values;
    const int64_t *rows, *lengths; /* cache row and number of positions, the new one included, of each row */
    float *scores;                 /* [rows, heads, scores_stride] */
    float *out;                    /* [rows, heads, HEAD_WIDTH] */
    int64_t n_rows, n_heads, n_positions, scores_stride, query_stride;
};

enum { PREFETCH_BYTES = 4096 };

/* An int8 head has its quantisation step, an fp32 number, behind it (cache.py). */
INLINE int64_t head_bytes(void) { return IS_INT8 ? HEAD_WIDTH + 4 : 4 * HEAD_WIDTH; }

INLINE f32x16 load_head(const char *head, int64_t i) {
    return IS_INT8 ? load_int8((const int8_t *)head + i) : load((const float *)head + i);
}

INLINE float head_step(const char *head) { return IS_INT8 ? LOAD(float, head + HEAD_WIDTH) : 1.0f; }

INLINE void store_head(char *head, const float *x) {
    if (IS_INT8) {
        f32x16 magnitudes = magnitude(load(x)), zeros = load(x) * 0.0f, reciprocal;
        UNROLL for (int64_t i = LANES; i < HEAD_WIDTH; i += LANES) {
            magnitudes = larger(magnitudes, magnitude(load(x + i)));
            zeros += load(x + i) * 0.0f;
        }
        STORE(float, head + HEAD_WIDTH, quant_step(magnitudes, zeros, 127, &reciprocal));
        UNROLL for (int64_t i = 0; i < HEAD_WIDTH; i += LANES)
            STORE(i8x16, head + i, __builtin_convertvector(round_to_int(load(x + i) * reciprocal), i8x16));
    } else {
        UNROLL for (int64_t i = 0; i < HEAD_WIDTH; i += LANES) store((float *)head + i, load(x + i));
    }
}

/* Prefetches PREFETCH_BYTES ahead of a position of `heads`; behind the last one, from the beginning of `next`. */
INLINE void prefetch_head(const char *heads, int64_t position, int64_t length, const char *next) {
    int64_t ahead = position + (PREFETCH_BYTES + head_bytes() - 1) / head_bytes();
    const char *base = ahead < length ? heads : next;
    prefetch(base, (ahead < length ? ahead : ahead - length) * head_bytes(), head_bytes());
}

/* Scores of a head's keys, with -inf behind them up to a whole vector; their maximum. Values are read next. */
INLINE float score_keys(const float *query, const char *keys, const char *values, int64_t length, float *scores) {
    f32x16 q[HEAD_WIDTH / LANES];
    UNROLL for (int64_t i = 0; i < HEAD_WIDTH / LANES; i++)
        q[i] = load(query + i * LANES) * splat(1 / __builtin_elementwise_sqrt((double)HEAD_WIDTH));
    float top = -__builtin_inff();
    for (int64_t position = 0; position < length; position++) {
        prefetch_head(keys, position, length, values);
        const char *key = keys + position * head_bytes();
        f32x16 sum = splat(0);
        UNROLL for (int64_t i = 0; i < HEAD_WIDTH / LANES; i++) sum = fma(q[i], load_head(key, i * LANES), sum);
        float score = hsum(sum) * head_step(key);
        scores[position] = score;
        top = top > score ? top : score;
    }
    store(scores + length, splat(-__builtin_inff()));
    return top;
}

/* Scores become weights, e^(score - top); their sum. */
INLINE float exp_scores(float *scores, int64_t length, float top) {
    f32x16 total = splat(0);
    for (int64_t i = 0; i < length; i += LANES) {
        f32x16 weights = exp_f32(load(scores + i) - top);
        store(scores + i, weights);
        total += weights;
    }
    return hsum(total);
}

/* out = the weighted sum of a head's values, times factor. The next head's keys are read next. */
INLINE void sum_values(const float *weights, const char *values, const char *keys, int64_t length, float factor,
                       float *out) {
    f32x16 sums[HEAD_WIDTH / LANES];
    UNROLL for (int64_t i = 0; i < HEAD_WIDTH / LANES; i++) sums[i] = splat(0);
    for (int64_t position = 0; position < length; position++) {
        prefetch_head(values, position, length, keys);
        const char *value = values + position * head_bytes();
        f32x16 weight = splat(weights[position] * head_step(value));
        UNROLL for (int64_t i = 0; i < HEAD_WIDTH / LANES; i++)
            sums[i] = fma(weight, load_head(value, i * LANES), sums[i]);
    }
    UNROLL for (int64_t i = 0; i < HEAD_WIDTH / LANES; i++) store(out + i * LANES, sums[i] * factor);
}

/* Where a head begins in keys and in values. */
INLINE int64_t head_offset(const struct attention_args *args, int64_t row, int64_t head) {
    return (args->rows[row] * args->n_heads + head) * args->n_positions * head_bytes();
}

void attention(const struct attention_args *given) {
    const struct attention_args args = *given;
    int64_t n_heads = args.n_heads, first, stop;
    thread_range(args.n_rows * n_heads, &first, &stop);
    for (int64_t item = first; item < stop; item++) {
        int64_t row = item / n_heads, head = item % n_heads, next = smaller(item + 1, stop - 1);
        int64_t length = args.lengths[row], input = row * args.query_stride + head * HEAD_WIDTH;
        int64_t offset = head_offset(&args, row, head), next_offset = head_offset(&args, next / n_heads, next % n_heads);
        char *keys = args.keys + offset, *values = args.values + offset;
        if (args.added) {
            store_head(keys + (length - 1) * head_bytes(), args.added + input);
            store_head(values + (length - 1) * head_bytes(), args.added + input + n_heads * HEAD_WIDTH);
        }
        float *scores = args.scores + item * args.scores_stride;
        float top = score_keys(args.query + input, keys, values, length, scores);
        float total = exp_scores(scores, length, top);
        sum_values(scores, values, args.keys + next_offset, length, 1.0f / total, args.out + item * HEAD_WIDTH);
    }
}

/* ---- Replay ---- */

struct kernel_call {
    void (*kernel)(const void *args);
    const void *args;
};

/* `round` counts the times that all threads have met, `n_arrived` those that wait for the next. */
struct barrier {
    int64_t round, n_arrived;
    char mutex[64], condition[64];
};

struct replay_args {
    const struct kernel_call *calls;
    int64_t n_calls;
    struct barrier *barrier;
};

/* Waits for the team. OpenMP's barrier spins for milliseconds, which is time that the system, where other programs use the
   cores, takes from this thread when it has work. This one spins as long as threads of undisturbed cores differ, then sleeps. */
static void meet(struct barrier *barrier) {
    int64_t round = __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&barrier->n_arrived, 1, __ATOMIC_ACQ_REL) == omp_get_num_threads()) {
        __atomic_store_n(&barrier->n_arrived, 0, __ATOMIC_RELAXED);
        pthread_mutex_lock(barrier->mutex);
        __atomic_store_n(&barrier->round, round + 1, __ATOMIC_RELEASE);
        pthread_mutex_unlock(barrier->mutex);
        pthread_cond_broadcast(barrier->condition);
        return;
    }
    for (int64_t i = 0; i < N_SPINS; i++)
        if (__atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE) != round) return;
    pthread_mutex_lock(barrier->mutex);
    while (__atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE) == round)
        pthread_cond_wait(barrier->condition, barrier->mutex);
    pthread_mutex_unlock(barrier->mutex);
}

/* Calls captured kernels one after the other, all threads together. */
void replay(const struct replay_args *args) {
    for (int64_t i = 0; i < args->n_calls; i++) {
        args->calls[i].kernel(args->calls[i].args);
        meet(args->barrier);
    }
}
