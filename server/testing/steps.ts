// SPDX-License-Identifier: Apache-2.0
/** What the test does to a machine, on the machine's own time line. */

export class Steps {
  readonly #mark: (what: string, details: Readonly<Record<string, unknown>>) => void

  /** @param mark puts it into the trace */
  constructor(mark: (what: string, details: Readonly<Record<string, unknown>>) => void) {
    this.#mark = mark
  }

  /** Does it; the trace has where it begins, and why it failed. @throws whatever `work` throws */
  async step<T>(text: string, work: () => Promise<T>): Promise<T> {
    this.#mark('step', { text: text.slice(0, 300) })
    try {
      return await work()
    } catch (error) {
      this.#mark('failed', { text: text.slice(0, 300), error: (error as Error).message.slice(0, 300) })
      throw error
    }
  }
}
