/* What the memory of this machine can do: three loops over long arrays, on all its cores. */
#include <math.h>

void copy(float *to, const float *from, long n) {
#pragma omp parallel for simd schedule(static)
    for (long i = 0; i < n; i++) to[i] = from[i];
}

void triad(float *to, const float *a, const float *b, long n) {
#pragma omp parallel for simd schedule(static)
    for (long i = 0; i < n; i++) to[i] = a[i] + 3.0f * b[i];
}

/* Clipped AdamW in place: one pass for the norm of g, one that reads and writes everything else once. */
void adamw(float *p, const float *g, float *m, float *v, long n) {
    const float b1 = 0.9f, b2 = 0.999f, rate = 1e-4f, decay = 1e-5f, eps = 1e-8f;
    float total = 0.0f;
#pragma omp parallel for simd schedule(static) reduction(+ : total)
    for (long i = 0; i < n; i++) total += g[i] * g[i];
    const float norm = sqrtf(total), clip = norm > 1.0f ? 1.0f / norm : 1.0f;
#pragma omp parallel for simd schedule(static)
    for (long i = 0; i < n; i++) {
        const float u = clip * g[i];
        const float first = b1 * m[i] + (1.0f - b1) * u, second = b2 * v[i] + (1.0f - b2) * u * u;
        m[i] = first;
        v[i] = second;
        p[i] -= rate * first / (sqrtf(second) + eps) + decay * p[i];
    }
}
