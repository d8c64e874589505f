// SPDX-License-Identifier: Apache-2.0
import { render } from 'preact'
import { App } from './app.tsx'
import { open, openEmbedded } from './recorded/open.ts'
import { listenForKeys } from './shortcuts.ts'
import { startLive } from './store.ts'
import './style.css'

startLive()
listenForKeys()
const root = document.getElementById('app')
if (root) render(<App />, root)
void openEmbedded()

// A recording that is dropped on the page is opened; nothing else is, and the page stays.
addEventListener('dragover', event => event.preventDefault())
addEventListener('drop', event => {
  event.preventDefault()
  const files = [...(event.dataTransfer?.files ?? [])]
  void files.reduce<Promise<void>>((before, file) => before.then(() => open(file.name, file)), Promise.resolve())
})
