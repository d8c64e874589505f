// SPDX-License-Identifier: Apache-2.0
/** Recordings in a real browser: a page from the disk, without any network; two side by side; one dropped on a server. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { MachineManager } from '../../server/api/machineManager.ts'
import { startServer } from '../../server/api/server.ts'
import { recordedMachine } from '../../server/trace/recordedMachine.ts'
import { violations } from './axe.ts'
import { CHROMIUM, CHROMIUM_ARGUMENTS, withoutServerAway } from './browser.ts'

const MAIN = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))
const fixture = (name: string) => fileURLToPath(new URL(`../unit/trace/recordings/${name}.gz`, import.meta.url))
const STEP_MS = 30_000
const VIEWS = 'overview traps queues streams translation memory console el2 runs reference'.split(' ')

let browser: Browser
let context: BrowserContext
let page: Page
let folder: string
let complaints: string[]
/** What the page asked the network for. */
let asked: string[]

beforeAll(async () => {
  if (!existsSync(CHROMIUM)) throw new Error(`${CHROMIUM} is missing: install Debian's chromium, or set CHROMIUM`)
  folder = mkdtempSync(join(tmpdir(), 'cosim-recording-'))
  browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_ARGUMENTS })
}, 180_000)

afterAll(async () => {
  await browser?.close()
  rmSync(folder, { recursive: true, force: true })
})

beforeEach(async () => {
  complaints = []
  asked = []
  context = await browser.newContext({ viewport: { width: 1280, height: 800 } })
  page = await context.newPage()
  page.setDefaultTimeout(STEP_MS)
  page.on('pageerror', error => complaints.push(String(error)))
  page.on('console', message => {
    if (message.type() === 'error') complaints.push(message.text())
  })
  page.on('request', request => {
    if (!/^(data|blob):/.test(request.url())) asked.push(request.url())
  })
})

afterEach(async () => {
  await context.close()
  expect(complaints).toEqual([])
})

const cli = (...args: string[]) => promisify(execFile)(process.execPath, [MAIN, ...args])
const button = (name: string) => page.getByRole('button', { name, exact: true })
const slider = () => page.getByRole('slider', { name: 'Moment' })
const words = () => page.locator('.recorded-bar [role=status]')
/** Moves the slider as a hand does. */
const slide = (to: number) =>
  slider().evaluate((element, value) => {
    ;(element as unknown as { value: string }).value = String(value)
    element.dispatchEvent(new Event('input', { bubbles: true }))
  }, to)

test('a page from the disk: every view at any moment, and no network', async () => {
  const file = join(folder, 'run.html')
  await cli('trace', 'export', fixture('6.12-nested'), '--html', '-o', file)
  await context.setOffline(true)
  const url = pathToFileURL(file).href
  await page.goto(url)
  await page.getByRole('region', { name: 'Recording' }).waitFor()
  expect(await page.title()).toMatch(/^6\.12-nested\.gz · /)
  await expect.poll(() => words().textContent()).toMatch(/^after trap 500,/)
  // Nothing offers to do what only a machine can.
  expect(await page.getByRole('button', { name: /^(Start|Kill|Reset|Close)/ }).count()).toBe(0)

  // Traps: choosing one is going there.
  await page.keyboard.press('2')
  await page.getByLabel('Command', { exact: true }).selectOption('CFGI_STE')
  const rows = page.locator('.virtual .trap')
  // The second one attaches the device to its domain.
  await rows.filter({ hasText: 'CFGI_STE sid=0x8 leaf' }).nth(1).click()
  await page.locator('.child', { hasText: 'nested' }).first().waitFor()
  const trap = Number(/after trap (\d+)/.exec((await words().textContent()) ?? '')?.[1])
  expect(trap).toBeLessThan(500)

  // The walk is that of the command line, at this trap and at the end.
  const walked = async (at: number) => {
    const { machine } = await recordedMachine(fixture('6.12-nested'), at)
    return machine.walk({ smmu: 0, sid: 8, iova: 0xffff_0000n, write: false })
  }
  await page.keyboard.press('5')
  await page.getByLabel('StreamID').fill('0x8')
  await page.getByLabel('Input address (IOVA)').fill('0xffff0000')
  await button('Walk').click()
  const outcome = page.locator('.result')
  const then = await walked(trap)
  await outcome.getByText(then.text).waitFor()
  await slide(1)
  await expect.poll(() => words().textContent()).not.toMatch(`trap ${trap},`)
  await page
    .locator('.result, .failure')
    .filter({ hasText: (await walked(1)).text.slice(0, 20) })
    .waitFor()
  await slide(Number(await slider().getAttribute('max')))
  await outcome.getByText((await walked(500)).text).waitFor()
  expect((await walked(500)).text).not.toBe((await walked(1)).text)

  // Step by step, by keyboard.
  await button('Walk').focus()
  await page.keyboard.press(',')
  await expect.poll(() => words().textContent()).toMatch(/^after trap 499,/)
  await page.keyboard.press('.')
  await expect.poll(() => words().textContent()).toMatch(/^after trap 500,/)

  await page.keyboard.press('3')
  await page.locator('.pairs tbody tr', { hasText: 'kept' }).first().waitFor()
  await page.keyboard.press('4')
  await page.getByRole('button', { name: /^0x8/ }).click()
  await page.locator('tr.differs', { hasText: 'S2TTB' }).first().waitFor()
  await page.keyboard.press('6')
  await page.getByText('A recording cannot be changed.').waitFor()
  // Only the file itself was asked for.
  expect(asked.filter(address => address.split('#')[0] !== url)).toEqual([])
}, 180_000)

test('every view of a recording: nothing for axe-core, nothing wider than the window', async () => {
  const file = join(folder, 'axe.html')
  await cli('trace', 'export', fixture('6.1-nested'), '--html', '--with', fixture('6.12-nested'), '-o', file)
  const wrong: string[] = []
  for (const theme of ['dark', 'light'] as const) {
    await page.emulateMedia({ colorScheme: theme })
    for (const width of [480, 1280, 1920]) {
      await page.setViewportSize({ width, height: 800 })
      await page.goto(pathToFileURL(file).href)
      await page.getByRole('region', { name: 'Recording' }).waitFor()
      for (const view of VIEWS) {
        await page.evaluate(`location.hash = '#/${view}'`)
        await page.waitForTimeout(300)
        if (view === 'runs') {
          await page.getByRole('button', { name: /^Compare with/ }).click()
          await page.getByRole('heading', { name: 'First difference' }).waitFor()
        }
        const where = `${view}, ${theme}, ${width} px`
        wrong.push(...(await violations(page)).map(text => `${where}: ${text}`))
        if (await page.evaluate<boolean>('document.documentElement.scrollWidth > innerWidth'))
          wrong.push(`${where}: wider than the window`)
      }
    }
  }
  expect(wrong).toEqual([])
}, 240_000)

test('trace open: two recordings side by side, from the first difference to its trap', async () => {
  const child: ChildProcess = spawn(
    process.execPath,
    [MAIN, 'trace', 'open', fixture('6.12-nested'), fixture('6.12-queues')],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  try {
    if (child.stdout === null) throw new Error('no output')
    const [url] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
    await page.goto(url)
    await page.getByRole('region', { name: 'Recording' }).waitFor()
    await page.keyboard.press('r')
    await button('Compare with 6.12-queues.gz').click()
    await page.getByRole('heading', { name: 'First difference' }).waitFor()
    const { stdout } = await cli('trace', 'diff', fixture('6.12-nested'), fixture('6.12-queues'), '--no-pager').catch(
      (error: { stdout: string }) => error,
    )

    const sides = page.locator('.place').first().locator('.sides ol')
    expect(await sides.count()).toBe(2)
    const [left, right] = [sides.nth(0).locator('li').first(), sides.nth(1).locator('li').first()]
    const text = (await left.locator('.as-link').textContent()) ?? ''
    expect(stdout).toContain(`- ${text}`)
    expect(stdout).toContain(`+ ${await right.locator('.as-link').textContent()}`)

    // Each leads to its trap in its own recording.
    await right.locator('.as-link').click()
    await page.locator('.recorded-name', { hasText: '6.12-queues.gz' }).waitFor()
    await page.locator('.detail .trap-head').waitFor()
    const trap = /\d+/.exec(text)?.[0]
    await expect.poll(() => words().textContent()).toContain(`after trap ${trap},`)
  } finally {
    child.kill('SIGTERM')
    await once(child, 'exit')
  }
  expect(child.exitCode).toBe(0)
}, 180_000)

test('a file dropped on a server, one of its recordings, and back to the machine', async () => {
  const runs = join(folder, 'runs')
  mkdirSync(join(runs, 'run-1'), { recursive: true })
  copyFileSync(fixture('6.12-cmdq'), join(runs, 'run-1', 'trace'))
  const manager = new MachineManager({ runsFolder: runs })
  const server = await startServer({ manager, port: 0, say: () => {} })
  try {
    await page.goto(new URL('/#/overview', server.url).href)
    await page.getByRole('status', { name: 'Machine off' }).waitFor()
    const drop = (name: string, bytes: Buffer) =>
      page.evaluate(`{
        const files = new DataTransfer()
        const bytes = Uint8Array.from(atob('${bytes.toString('base64')}'), c => c.charCodeAt(0))
        files.items.add(new File([bytes], '${name}'))
        document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true }))
      }`)
    // What is none is refused, in words, and the page goes on.
    await drop('notes.txt', Buffer.from('not a recording'))
    await page.getByRole('alert').filter({ hasText: 'notes.txt: this is no trace' }).waitFor()
    await button('Dismiss').click()
    await drop('dropped.gz', readFileSync(fixture('6.12-nested')))
    await page.locator('.recorded-name', { hasText: 'dropped.gz' }).waitFor()
    await page.getByRole('status', { name: 'Machine recording' }).waitFor()
    await page.locator('.tallies', { hasText: '500traps' }).waitFor()
    await button('Close').click()
    await page.getByRole('status', { name: 'Machine off' }).waitFor()
    await page.getByText('What is counted can be seen while one runs.').waitFor()
    // One that the server has.
    await page.keyboard.press('r')
    await button('Open run-1').click()
    await page.locator('.recorded-name', { hasText: 'run-1' }).waitFor()
    await page.keyboard.press('1')
    await page.locator('.tallies', { hasText: '500traps' }).waitFor()
  } finally {
    await manager.close()
    await server.close()
  }
  complaints = withoutServerAway(complaints)
}, 180_000)
