// Figures of several runs, and how they are printed.

export const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

export const percentile = (values, share) => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
};

export const number = (value) => {
  if (value === undefined || Number.isNaN(value)) return '–';
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString('en-US').replaceAll(',', ' ');
  return value.toPrecision(3).replace(/\.?0+$/, '');
};

/** Values by name, one for each run. */
export class Samples {
  #values = new Map();
  #units = new Map();

  add(name, value, unit) {
    if (!this.#values.has(name)) this.#values.set(name, []);
    this.#values.get(name).push(value);
    this.#units.set(name, unit);
  }

  /** Throws the runs so far away. */
  clear() { this.#values.clear(); }

  median(name) { return this.#values.has(name) ? median(this.#values.get(name)) : undefined; }

  /** Median of the ratios within each run. */
  ratio(name, to) {
    const [a, b] = [this.#values.get(name), this.#values.get(to)];
    return a && b ? median(a.map((value, run) => value / b[run])) : undefined;
  }

  toString() {
    const lines = [];
    for (const [name, values] of this.#values) {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      lines.push([name, number(median(values)), `${number(low)} – ${number(high)}`, this.#units.get(name)]);
    }
    return table(['measured', 'median', 'range', 'unit'], lines);
  }
}

/** A table in Markdown. */
export const table = (head, lines) => [head, head.map(() => '---'), ...lines]
  .map((cells) => `| ${cells.join(' | ')} |`).join('\n');
