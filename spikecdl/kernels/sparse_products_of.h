/* Sparse products in the precision that is named `REAL`: included for each precision. */

int64_t NAME(add_rows)(const ARRAY(2) * left, const ARRAY(2) * right, const ARRAY(2) * product) {
    BEGIN
    int64_t n_columns = product->n[1], *chosen = take_longs(memory, left->n[1] + 1);
    bool *restrict used = take(memory, left->n[1]);
    for (int64_t m = 0; m < left->n[0]; m++) {
        const REAL *weight = ROW2(*left, m);
        REAL *restrict out = ROW2(*product, m);
        int64_t count = 0, n_rows = left->n[1];
        for (int64_t n = 0; n < n_rows; n++)
            used[n] = weight[n] != 0;
        for (int64_t n = 0; n < n_rows; n++) {
            chosen[count] = n;
            count += used[n];
        }
        int64_t whole = count - count % 4;
        for (int64_t i = 0; i < whole; i += 4) {
            const REAL *r0 = ROW2(*right, chosen[i]), *r1 = ROW2(*right, chosen[i + 1]);
            const REAL *r2 = ROW2(*right, chosen[i + 2]), *r3 = ROW2(*right, chosen[i + 3]);
            REAL w0 = weight[chosen[i]], w1 = weight[chosen[i + 1]];
            REAL w2 = weight[chosen[i + 2]], w3 = weight[chosen[i + 3]];
            for (int64_t k = 0; k < n_columns; k++)
                out[k] += (w0 * r0[k] + w1 * r1[k]) + (w2 * r2[k] + w3 * r3[k]);
        }
        for (int64_t i = whole; i < count; i++) {
            const REAL *row = ROW2(*right, chosen[i]);
            REAL w = weight[chosen[i]];
            for (int64_t k = 0; k < n_columns; k++)
                out[k] += w * row[k];
        }
    }
    END
}

void NAME(fill_products)(const ARRAY(2) * codes, const ARRAY(2) * patches,
                         const ARRAY(2) * templates, const ARRAY(2) * products) {
    int64_t n_pixels = patches->n[1];
    for (int64_t m = 0; m < codes->n[0]; m++)
        for (int64_t n = 0; n < codes->n[1]; n++) {
            if (AT2(*codes, m, n) == 0)
                continue;
            const REAL *patch = ROW2(*patches, m), *taps = ROW2(*templates, n);
            REAL total = 0;
            REDUCE(total)
            for (int64_t k = 0; k < n_pixels; k++)
                total += patch[k] * taps[k];
            AT2(*products, m, n) = total;
        }
}
