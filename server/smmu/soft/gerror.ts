// SPDX-License-Identifier: Apache-2.0
/** Global errors: GERROR and GERRORN (IHI 0070 section 7.5). An error is active while its bits in the two registers differ. */
import { GERROR_MSI_GERROR_ABT_ERR } from '../registers.ts'
import type { InterruptSource, Interrupts } from './msi.ts'

export class GlobalErrors {
  gerror = 0
  gerrorn = 0
  readonly #interrupts: Interrupts

  constructor(interrupts: Interrupts) {
    this.#interrupts = interrupts
  }

  active(errors: number): boolean {
    return ((this.gerror ^ this.gerrorn) & errors) !== 0
  }

  /** Activates errors that are not active yet; only that interrupts. */
  activate(errors: number): void {
    const inactive = ~(this.gerror ^ this.gerrorn) & errors
    if (inactive === 0) return
    this.gerror = (this.gerror ^ inactive) >>> 0
    // An aborted MSI of this very interrupt is told by no other.
    if (inactive !== GERROR_MSI_GERROR_ABT_ERR) this.interrupt(this.#interrupts.gerror)
  }

  /** Raises an interrupt; an MSI that is aborted is an error of its own. */
  interrupt(source: InterruptSource): void {
    if (!this.#interrupts.raise(source)) this.activate(source.abortError)
  }

  reset(): void {
    this.gerror = this.gerrorn = 0
  }
}
