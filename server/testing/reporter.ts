// SPDX-License-Identifier: Apache-2.0
/** A reporter of vitest, beside its own: of a test that fails, what its machines left behind. */
import type { Reporter, TestCase, Vitest } from 'vitest/node'
import { escaped } from '../trace/terminal.ts'
import { type Failure, failureLines } from './failure.ts'

export default class MachineReporter implements Reporter {
  #vitest: Vitest | undefined

  onInit(vitest: Vitest): void {
    this.#vitest = vitest
  }

  onTestCaseResult(test: TestCase): void {
    const failure = test.meta().cosim as Failure | undefined
    if (failure === undefined || test.result().state !== 'failed') return
    const lines = [
      `${test.module.relativeModuleId} > ${test.fullName}:`,
      ...failureLines(failure).map(line => `  ${line}`),
      '',
    ]
    // What guests say is in it.
    this.#vitest?.logger.log(lines.map(line => escaped(line).replaceAll('\n', ' ')).join('\n'))
  }
}
