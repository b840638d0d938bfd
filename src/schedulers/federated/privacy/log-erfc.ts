/**
 * Natural logarithm of the complementary error function, to about twelve digits: by the series of erf (Abramowitz and Stegun,
 * 7.1.6) near zero, by the continued fraction 7.1.14 for larger arguments, where erfc itself would vanish.
 */
export function logErfc(x: number): number {
  if (x < 0) {
    // erfc(-x) = 2 - erfc(x)
    const log = logErfc(-x);
    return Math.log(2 - Math.exp(log));
  }
  if (x < 2) return Math.log(1 - erfSeries(x));
  let fraction = 0;
  for (let n = 80; n >= 1; n--) fraction = n / 2 / (x + fraction);
  return -x * x - Math.log(Math.sqrt(Math.PI) * (x + fraction));
}

function erfSeries(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; n < 200 && Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return ((2 * sum) / Math.sqrt(Math.PI)) * Math.exp(-x * x);
}
